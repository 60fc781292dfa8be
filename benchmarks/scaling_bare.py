"""The same step as that of scaling.py by a bare script: torch's own tensor parallel, FSDP2 and AdamW on fake
tensors and a fake process group, and a mode that only counts collectives. What the simulation takes without
ours.

    python benchmarks/scaling_bare.py FILE     the model's configuration

It prints the seconds after each part, the operators and the collectives, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

START = time.perf_counter()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402
from torch.distributed.tensor import Replicate  # noqa: E402
from torch.distributed.tensor.parallel import (  # noqa: E402
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from transformers import LlamaConfig  # noqa: E402
from transformers.models.llama.modeling_llama import LlamaForCausalLM  # noqa: E402


class Collectives(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators = 0
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators += 1
        if "c10d" in func.namespace and "wait" not in func.name():
            self.counts[func.name()] += 1
        return func(*args, **(kwargs or {}))


def main(file: str) -> None:
    seconds = {}

    def lap(name: str) -> None:
        seconds[name] = round(time.perf_counter() - START, 2)

    lap("imports")
    dist.init_process_group("fake", world_size=4096, rank=0, store=FakeStore())
    mesh = init_device_mesh("cpu", (512, 8), mesh_dim_names=("dp", "tp"))
    data, tensor = mesh["dp"], mesh["tp"]
    config = LlamaConfig(**json.loads(Path(file).read_text()))
    with torch.device("meta"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    lap("built")
    columns = dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ColwiseParallel())
    columns |= dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), ColwiseParallel())
    rows = dict.fromkeys(("self_attn.o_proj", "mlp.down_proj"), RowwiseParallel())
    for layer in model.model.layers:
        parallelize_module(layer, tensor, {**columns, **rows})
        fully_shard(layer, mesh=data)
    parallelize_module(model, tensor, {"lm_head": ColwiseParallel(output_layouts=Replicate())})
    fully_shard(model, mesh=data)
    lap("sharded")
    collectives = Collectives()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
        tokens = torch.zeros(1, 8192, dtype=torch.long)
        lap("materialised")
        with collectives:
            loss = model(input_ids=tokens, labels=tokens).loss
            lap("forward")
            loss.backward()
            lap("backward")
            optimizer.step()
            lap("optimizer")
    made = {"seconds": seconds, "operators": collectives.operators, "collectives": dict(collectives.counts)}
    print(json.dumps(made))


if __name__ == "__main__":
    main(sys.argv[1])
