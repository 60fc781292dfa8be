"""What each module is, by its class or by what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.profiling.views.kinds import kinds


class LlamaRMSNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.pow(2).mean(-1, keepdim=True).rsqrt()


class Mixer(nn.Module):
    """A class of the user's own that multiplies matrices itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.weight)


class ConvNormActivation(nn.Sequential):
    """A container, whatever its name says."""


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize(
    ("module", "inputs", "kind"),
    [
        (nn.Linear(6, 6), "2x6", "linear"),
        (nn.LayerNorm(6), "2x6", "norm"),
        (LlamaRMSNorm(), "2x6", "norm"),
        (nn.Conv2d(3, 2, 1), "1x3x4x4", "convolution"),
        (nn.ConvTranspose1d(3, 2, 1), "1x3x4", "convolution"),
        (nn.AdaptiveAvgPool2d(1), "1x3x4x4", "pooling"),
        (nn.LSTM(6, 6), "2x1x6", "recurrent"),
        (nn.Embedding(9, 6), "int64[1,3]", "embedding"),
        (nn.LeakyReLU(), "2x6", "activation"),
        (nn.GELU(), "2x6", "activation"),
        (Mixer(), "2x6", "linear"),
        (Odd(), "2x6", "other"),
        (ConvNormActivation(nn.Conv2d(3, 2, 1), nn.ReLU()), "1x3x4x4", "container"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_module_has_a_kind(module: nn.Module, inputs: str, kind: str) -> None:
    found = kinds(inspector.trace(nn.Sequential(module), inputs))
    assert found["0"] == kind
    assert found[""] == "container"


def test_attention_is_one_also_where_its_parts_are_modules() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, batch_first=True)
    found = kinds(inspector.trace(layer, "1x3x8"))
    assert found["self_attn"] == "attention"
    assert found["linear1"] == "linear"
    assert found[""] == "container"
