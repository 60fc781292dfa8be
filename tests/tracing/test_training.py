"""The train phase: backward MACs, and which module a backward operator belongs to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import inspector
from inspector.profiling.views.totals import totals
from inspector.tracing.record import Trace


def macs(trace: Trace, phase: str, module: str | None = None) -> int:
    return sum(
        op.macs or 0 for op in trace.ops if op.phase == phase and (module is None or op.module == module)
    )


@pytest.mark.parametrize("spec", ["mobilenet_v3_large", "efficientnet_b0", "convnext_tiny"])
def test_backward_takes_about_twice_the_forward(spec: str) -> None:
    sums = totals(inspector.trace(spec, phase="train"))
    assert 1.9 <= sums["backward_macs"] / sums["forward_macs"] <= 2.05
    assert sums["unknown_ops"] == 0


def test_resnet50_backward_is_twice_the_forward_without_the_first_input_gradient() -> None:
    # Every layer needs its weight and its input gradient, each as large as its forward, but the
    # image needs none: 2 * 4,089,184,256 minus conv1, 64 * 112 * 112 outputs * 3 * 7 * 7.
    trace = inspector.trace("resnet50", phase="train")
    assert macs(trace, "forward") == 4_089_184_256
    assert macs(trace, "backward") == 2 * 4_089_184_256 - 64 * 112 * 112 * 3 * 7 * 7


def test_every_layer_owns_its_backward() -> None:
    # fc: 8 -> 4 on a batch of 2 is 64 forward; its weight and input gradients are 64 each.
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    trace = inspector.trace(model, torch.ones(2, 6), phase="train")
    assert macs(trace, "backward", "2") == 2 * 64
    assert macs(trace, "backward", "0") == 2 * 6 * 8  # weight gradient only
    homeless = [op.name for op in trace.ops if op.module == ""]
    assert homeless == []


def test_frozen_layers_have_no_weight_gradient() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4))
    for parameter in model[1].parameters():
        parameter.requires_grad_(False)
    trace = inspector.trace(model, torch.ones(2, 6), phase="train")
    assert macs(trace, "backward", "1") == 2 * 8 * 4  # input gradient only


@pytest.mark.parametrize(("reentrant", "again"), [(True, 2 * 32), (False, 32)])
def test_checkpointed_work_is_counted_again(reentrant: bool, again: int) -> None:
    """Two layers of 2 * 4 * 4 = 32. The form that is not reentrant stops before the last product:
    its inputs are all that the backward needs (torch.utils.checkpoint, early stop)."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    x = torch.ones(2, 4, requires_grad=True)
    trace = inspector.trace(Block(), x, phase="train")
    assert macs(trace, "forward") == 2 * 32
    assert macs(trace, "backward") == again + 4 * 32
    assert macs(trace, "backward", "inner.0") == 32 + 2 * 32


def test_a_custom_function_is_counted_in_both_directions() -> None:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> Any:
            a, b = ctx.saved_tensors
            return grad @ b.T, a.T @ grad

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Product.apply(x, self.weight)

    trace = inspector.trace(nn.Sequential(Layer()), torch.ones(3, 5), phase="train")
    assert macs(trace, "forward", "0") == 3 * 5 * 7
    assert macs(trace, "backward", "0") == 2 * 3 * 5 * 7  # what its backward computes, needed or not


def test_the_models_own_loss_is_differentiated() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": self.used(x).sum(), "extra": self.unused(x)}

    trace = inspector.trace(WithLoss(), torch.ones(1, 4), phase="train")
    assert macs(trace, "backward", "used") == 4 * 2
    assert macs(trace, "backward", "unused") == 0


def test_a_model_without_gradients_says_so() -> None:
    model = nn.Linear(2, 2)
    model.requires_grad_(False)
    with pytest.raises(inspector.InspectError, match="no output requires grad"):
        inspector.trace(model, torch.ones(1, 2), phase="train")
