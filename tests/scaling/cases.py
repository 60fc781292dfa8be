"""What both sides of the comparison run: models, meshes, and the inputs of a rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """`model` on `mesh`, split as `shard`; `optimizer` of torch. `checkpoint`: every layer is computed again
    in the backward. `amp`: autocast to bfloat16."""

    model: str
    mesh: str
    shard: str
    optimizer: str = "adamw"
    reshard: bool = True
    accumulate: int = 1
    param_dtype: str | None = None
    schedule: str | None = None
    microbatches: int = 4
    sequence: bool = False
    checkpoint: bool = False
    amp: bool = False

    @property
    def name(self) -> str:
        more = ("" if self.reshard else "-kept") + (f"-{self.accumulate}x" if self.accumulate > 1 else "")
        more += f"-{self.param_dtype}" if self.param_dtype else ""
        more += f"-{self.schedule}" if self.schedule else ""
        more += "-sequence" if self.sequence else ""
        more += "-checkpoint" if self.checkpoint else ""
        more += "-amp" if self.amp else ""
        return f"{self.model}-{self.shard}-{self.mesh.replace('=', '').replace(',', '-')}{more}"

    @property
    def world_size(self) -> int:
        sizes = [int(part.partition("=")[2]) for part in self.mesh.split(",")]
        return int(torch.tensor(sizes).prod())


KV_HEADS = 2 if tuple(map(int, torch.__version__.split(".")[:2])) > (2, 8) else 6
"""On a CPU torch 2.8 has no attention with fewer heads of keys."""

TWO = (
    Case("llama", "dp=2", "ddp"),
    Case("llama", "dp=2", "zero1"),
    Case("llama", "dp=2", "fsdp"),
    Case("llama", "dp=2", "fsdp", reshard=False),
    Case("llama", "dp=2", "zero2", "sgd"),
    Case("llama", "dp=2", "fsdp", accumulate=2),
    Case("llama", "dp=2", "fsdp", param_dtype="bfloat16"),
    Case("gpt2", "dp=2", "ddp"),
    Case("gpt2", "dp=2", "fsdp", "momentum"),
    Case("resnet50", "dp=2", "ddp", "momentum"),
    Case("resnet50", "dp=2", "fsdp", "sgd"),
    Case("llama", "dp=2", "ddp", amp=True),
    Case("llama", "dp=2", "fsdp", checkpoint=True),
    Case("llama", "dp=2", "fsdp", checkpoint=True, amp=True),
    Case("llama", "pp=2", "fsdp", schedule="gpipe"),
    Case("llama", "pp=2", "fsdp", schedule="1f1b", checkpoint=True),
    Case("llama", "pp=2", "fsdp", schedule="1f1b", amp=True),
    Case("llama", "pp=2", "fsdp", "sgd", schedule="1f1b"),
    Case("llama4", "pp=2", "fsdp", schedule="interleaved"),
    Case("llama", "tp=2", "fsdp"),
    Case("llama", "tp=2", "fsdp", sequence=True),
)
FOUR = (
    Case("llama", "dp=4", "ddp", "sgd"),
    Case("resnet14", "dp=4", "fsdp", "adamw"),
    Case("llama", "replicate=2,dp=2", "hsdp"),
    Case("llama", "pp=2,dp=2", "fsdp", schedule="1f1b"),
    Case("llama", "pp=2,dp=2", "zero2", schedule="gpipe"),
    Case("llama", "dp=2,tp=2", "fsdp"),
    Case("llama", "pp=2,tp=2", "fsdp", schedule="1f1b"),
)
"""The last of each are those with tensor parallelism: torch 2.8 remembers the first mesh that it saw."""


RESNETS = {"resnet50": [3, 4, 6, 3], "resnet14": [1, 1, 1, 1]}


def build(name: str) -> nn.Module:
    """Small models of odd sizes, so that shards are uneven. transformers' own plan splits llama. resnet50
    fills several buckets of DDP; resnet14 has one block of it in each stage."""
    if name in RESNETS:
        from torchvision.models.resnet import Bottleneck, ResNet

        return ResNet(Bottleneck, RESNETS[name], num_classes=101)
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    if name == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(n_embd=48, n_layer=3, n_head=3, vocab_size=101, n_positions=64, use_cache=False)
        )
    config = LlamaConfig(
        hidden_size=72, num_hidden_layers=4 if name == "llama4" else 3, num_attention_heads=6,
        num_key_value_heads=KV_HEADS, intermediate_size=180, vocab_size=130, use_cache=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def inputs(case: Case) -> list[str]:
    if case.model in RESNETS:
        return ["2x3x64x64"]
    return [f"input_ids=int64[{samples(case)},40]", f"labels=int64[{samples(case)},40]"]


def samples(case: Case) -> int:
    return 2 * case.microbatches if case.schedule else 2


def call(case: Case) -> dict[str, Any]:
    """The inputs as tensors, by keyword."""
    if case.model in RESNETS:
        return {"x": torch.randn(2, 3, 64, 64)}
    ids = torch.randint(0, 100, (samples(case), 40))
    return {"input_ids": ids, "labels": ids.clone()}
