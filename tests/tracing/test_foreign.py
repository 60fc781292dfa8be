"""Work that leaves torch is seen, and what is counted without it is a lower bound."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from torch import nn

import inspector
from inspector.tracing.capture import ForwardError, capture
from inspector.tracing.capture.foreign import NOTE, NUMPY


class Sine(torch.autograd.Function):
    """Computes in numpy, in the backward too."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(numpy.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad * torch.from_numpy(numpy.cos(x.numpy()))


class Wave(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Sine.apply(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.wave = nn.Linear(8, 4), Wave()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wave(self.linear(x))


def test_numpy_makes_the_totals_lower_bounds() -> None:
    report = inspector.profile(Net(), "2x8")
    assert report.subject["device"] == "cpu"  # meta tensors hold nothing that numpy could read
    assert NOTE in [finding.message for finding in report.findings]
    unknown = report.to_frame("unknown")
    assert unknown.to_dict("records") == [{"op": NUMPY, "calls": 1, "module": "wave"}]
    for metric in ("macs", "flops", "activations"):
        assert report.metrics[metric].lower_bound, metric
    assert report.metrics["macs"].value == 2 * 8 * 4


def test_numpy_in_a_backward_is_seen_too() -> None:
    ops = inspector.trace(Net(), "2x8", phase="train").ops
    seen = [(op.phase, op.module) for op in ops if op.name == NUMPY]
    assert seen == [("forward", "wave"), ("backward", "wave")]


WAYS = {
    "numpy": lambda x: torch.from_numpy(x.numpy()),
    "asarray": lambda x: torch.as_tensor(numpy.asarray(x)),
    "function": lambda x: torch.as_tensor(numpy.tanh(x)),
    "dlpack": lambda x: torch.as_tensor(numpy.from_dlpack(x)),
}


class Function(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_into_numpy_is_seen(way: Any) -> None:
    trace = capture(Function(way), (torch.ones(3),), device="cpu")
    assert [op.name for op in trace.ops if not op.known] == [NUMPY]
    assert trace.notes == (NOTE,)


def test_data_that_comes_from_numpy_is_no_work_in_it() -> None:
    trace = capture(
        Function(lambda x: x + torch.from_numpy(numpy.ones(3, "float32"))), (torch.ones(3),), device="cpu"
    )
    assert all(op.known for op in trace.ops)
    assert not trace.notes


def test_the_methods_of_tensors_are_put_back() -> None:
    before = torch.Tensor.numpy, torch.Tensor.__dlpack__, "numpy" in vars(torch.Tensor)
    capture(Function(WAYS["numpy"]), (torch.ones(3),), device="cpu")
    with pytest.raises(ForwardError):
        capture(Function(lambda x: x.numpy() + "a"), (torch.ones(3),), device="cpu")
    assert (torch.Tensor.numpy, torch.Tensor.__dlpack__, "numpy" in vars(torch.Tensor)) == before
