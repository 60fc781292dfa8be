"""Run one function or module through the pass and read its counts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from inspector.tracing.capture import capture
from inspector.tracing.formulas import cost
from inspector.tracing.record import TensorSpec


class _Function(nn.Module):
    """A function as a module, called in its own forward."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)


def _meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def _ops(model, *args, phase="forward", device="meta"):
    """The operators of one pass; where `phase` is "train", float inputs of a function need grad."""
    if not isinstance(model, nn.Module):
        model = _Function(model)
        if phase == "train":
            args = [a.requires_grad_() if a.is_floating_point() else a for a in args]
    return capture(model, tuple(args), phase=phase, device=device).ops


def _total(ops, phase):
    ops = [op for op in ops if phase in (None, op.phase)]
    unknown = [op.name for op in ops if not op.known]
    assert not unknown, unknown
    return SimpleNamespace(
        macs=sum(op.macs for op in ops),
        pointwise=sum(op.pointwise_flops for op in ops),
        activations=sum(op.activations for op in ops),
        read=sum(op.bytes_read for op in ops),
        written=sum(op.bytes_written for op in ops),
    )


def _count(model, *args, phase="forward", only=None, device="meta"):
    """Totals of one pass, of its forward or backward operators `only`."""
    return _total(_ops(model, *args, phase=phase, device=device), only)


def _price(name, outputs, *args, **kwargs):
    """What a formula says of a call; shapes as tuples, lists of shapes as lists."""

    def spec(value):
        if isinstance(value, tuple):
            return TensorSpec(value, "float32")
        return [spec(entry) for entry in value] if isinstance(value, list) else value

    found = cost(name, spec(outputs), tuple(spec(a) for a in args), kwargs)
    assert found is not None, f"{name} is unknown"
    return found


@pytest.fixture
def meta():
    return _meta


@pytest.fixture
def ops():
    return _ops


@pytest.fixture
def count():
    return _count


@pytest.fixture
def price():
    return _price
