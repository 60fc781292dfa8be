"""Nested tensors: each component costs what it costs alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import inspector

LAYOUTS = [torch.jagged, torch.strided]


class Attention(nn.Module):
    """One 16-to-16 projection that is query, key and value of 2 heads of 8."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(x)
        if x.layout == torch.jagged:
            y = y.unflatten(-1, [2, 8]).transpose(1, 2)
        else:
            y = y.view(2, -1, 2, 8).transpose(1, 2).contiguous()
        return functional.scaled_dot_product_attention(y, y, y)


PROJECTION = 12 * 16 * 16
PRODUCTS = 2 * 2 * (5 * 5 + 7 * 7) * 8
"""Two products of 2 heads of 8: 5 x 5 and 7 x 7 scores."""


def nested(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([torch.randn(5, 16), torch.randn(7, 16)], layout=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_linear_and_attention(layout: torch.layout, phase: str) -> None:
    assert PROJECTION + PRODUCTS == 5440
    report = inspector.profile(Attention(), nested(layout), phase=phase)
    # The backward: the weight of the projection (its input needs no gradient), both factors of both products.
    backward = PROJECTION + 2 * PRODUCTS
    assert report.metrics["macs"].value == 5440 + (backward if phase == "train" else 0)
    assert report.metrics["unknown_ops"].value == 0
    assert report.subject["device"] == "cpu"
    assert report.subject["inputs"] == ["nested float32[5x16,7x16]"]
    assert _get_current_dispatch_mode_stack() == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_callers_tensor_stays_as_it_was(layout: torch.layout) -> None:
    x = nested(layout)
    before = [part.clone() for part in x.unbind()]
    inspector.profile(Attention(), x)
    assert all(map(torch.equal, before, x.unbind()))


def test_pointwise_work_is_that_of_the_elements() -> None:
    report = inspector.profile(nn.ReLU(), nested(torch.strided))
    assert report.metrics["pointwise_flops"].value == 12 * 16
    assert report.metrics["bytes_moved"].value == 2 * 4 * 12 * 16
