"""FLOPs of training a token against the rule of 6 a parameter: each part by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.profiling.views.tokens import rule_frame, tokens

transformers = pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.once

D, F, V, LAYERS, LENGTH = 32, 48, 96, 2, 16
SMALL = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
BLOCK = 2 * D * D + 2 * D * D // 2 + 3 * D * F  # q and o; k and v of half the heads; gate, up and down
NORMS = (2 * LAYERS + 1) * D
ATTENTION = 12 * LAYERS * LENGTH * D  # two products of D x LENGTH a token: 2 FLOPs, three times
REST = "weights used more or less than once a token and pass"


def parts(model: Any, inputs: Any = f"input_ids=int64[2,{LENGTH}]", **more: Any) -> dict[str, int]:
    frame = rule_frame(inspector.trace(model, inputs, phase="train", **more))
    assert frame is not None
    *added, counted = frame["flops_per_token"]
    assert sum(added) == pytest.approx(counted, abs=8)
    return dict(zip(frame["part"], frame["flops_per_token"]))


def test_a_llama() -> None:
    rows = parts(transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL)))
    assert rows["6 x parameters"] == 6 * (2 * V * D + LAYERS * BLOCK + NORMS)
    assert rows["tables that are looked up"] == -6 * V * D
    assert rows["norms and biases: no products"] == -6 * NORMS
    assert rows["products of activations (attention)"] == ATTENTION
    assert REST not in rows
    assert "frozen weights: no gradients" not in rows
    assert "experts that a token does not reach" not in rows


def test_a_table_that_is_also_the_head_multiplies() -> None:
    config = transformers.LlamaConfig(**SMALL, tie_word_embeddings=True)
    rows = parts(transformers.LlamaForCausalLM(config))
    assert rows["6 x parameters"] == 6 * (V * D + LAYERS * BLOCK + NORMS)
    assert "tables that are looked up" not in rows
    assert REST not in rows


def test_of_experts_those_that_a_token_reaches() -> None:
    config = transformers.MixtralConfig(**SMALL, num_local_experts=8, num_experts_per_tok=2)
    rows = parts(transformers.MixtralForCausalLM(config))
    assert rows["experts that a token does not reach"] == -6 * LAYERS * 6 * 3 * D * F
    assert REST not in rows


def test_frozen_weights_have_no_gradients() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "layers.0" not in name
    rows = parts(model)
    assert rows["frozen weights: no gradients"] == -2 * BLOCK
    assert REST not in rows  # the table below is trained: gradients pass through the frozen block


def test_what_no_gradient_passes_through_is_left() -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "layers.1" in name or "lm_head" in name or name == "model.norm.weight"
    rows = parts(model)
    # The frozen first block has no backward at all; q, k and v of the second none to their input, but the
    # first norm of that block is trained: all of its three have. Attention's backward is the second's alone.
    assert rows["frozen weights: no gradients"] == -2 * BLOCK
    assert rows[REST] == -2 * BLOCK
    assert rows["products of activations (attention)"] == ATTENTION // 2 + ATTENTION // 2 // 3


class Own(nn.Module):
    """A language model by hand, called by position, whose one layer runs three times."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(V, D)
        self.layer = nn.Linear(D, D, bias=False)
        self.head = nn.Linear(D, V, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        for _ in range(3):
            x = self.layer(x).relu()
        return self.head(x)


def test_a_layer_that_runs_three_times_is_said() -> None:
    rows = parts(Own(), f"int64[3,{LENGTH}]")
    assert rows[REST] == 6 * 2 * D * D
    assert rows["tables that are looked up"] == -6 * V * D


class Pictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(V, 3), nn.Linear(3, 3)

    def forward(self, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(image) + self.table(ids).sum(1)


def test_what_is_no_language_model_has_no_tokens() -> None:
    assert tokens(inspector.trace("resnet18", phase="train")) is None
    assert tokens(inspector.trace(Pictures(), ["2x3", "int64[2,4]"], phase="train")) is None
    assert tokens(inspector.trace(Own(), f"int64[3,{LENGTH}]")) is None
    config = transformers.T5Config(vocab_size=V, d_model=D, d_ff=F, d_kv=8, num_layers=1, num_heads=4)
    assert tokens(inspector.trace(transformers.T5ForConditionalGeneration(config), phase="train")) is None


def test_the_report_says_it() -> None:
    report = inspector.profile(Own(), f"int64[3,{LENGTH}]", phase="train")
    pointwise = report.metrics["pointwise_flops"].value
    assert pointwise is not None
    by_hand = 6 * (3 * D * D + D * V) + pointwise / (3 * LENGTH)
    assert report.metrics["flops_per_token"].value == round(by_hand)
    assert any("6 a parameter" in section.title for section in report.sections)
