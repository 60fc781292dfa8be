"""Faults of the values: unwritten, constant, copied, rounded, or loaded in part."""

from __future__ import annotations

import math

import torch
from torch import nn

from inspector.initialization.apply import apply
from inspector.reporting.report import Finding
from tests.faults import fault
from tests.faults.init.nets import drawn, judged, net


@fault("init", check="uninitialised")
def memory_that_nothing_wrote() -> list[Finding]:
    """torch.empty: old integers and pointers, which read as denormal numbers and as huge ones."""
    model = net()
    garbage = torch.arange(24 * 80 * 9, dtype=torch.int32)
    garbage[::7] = 0x7E967699  # 1e38
    with torch.no_grad():
        model.conv2.weight.copy_(garbage.view(torch.float32).view(80, 24, 3, 3))
    return judged(model)


@fault("init", check="uninitialised")
def one_value_is_nan() -> list[Finding]:
    """A single NaN, which auto must see too."""
    model = net()
    with torch.no_grad():
        model.head.weight[7, 7] = math.nan
    return judged(model, "auto")


@fault("init", check="constant")
def a_constant_weight() -> list[Finding]:
    """All weights equal: every unit of the layer learns the same."""
    model = net()
    nn.init.constant_(model.head.weight, 0.01)
    return judged(model)


@fault("init", check="copies")
def half_of_the_outputs_are_zero() -> list[Finding]:
    """The first half of the output channels is zero: a partial load."""
    model = net()
    with torch.no_grad():
        model.conv2.weight[:40] = 0
    return judged(model)


@fault("init", check="copies")
def half_of_the_inputs_are_zero() -> list[Finding]:
    """The first half of the input channels is zero: a partial load."""
    model = net()
    with torch.no_grad():
        model.conv2.weight[:, :12] = 0
    return judged(model)


@fault("init", check="spread")
def half_of_it_is_drawn_anew() -> list[Finding]:
    """New output channels with another law than the old ones."""
    model = net()
    torch.manual_seed(1)
    with torch.no_grad():
        model.conv2.weight[40:].normal_(0, 0.02)
    return judged(model)


@fault("init", check="copies")
def channels_are_copied() -> list[Finding]:
    """A layer widened by repeating its channels: the copies never part."""
    model = net()
    with torch.no_grad():
        model.conv2.weight[40:] = drawn(torch.empty(80, 24, 3, 3))[:40]
        model.conv2.weight[:40] = model.conv2.weight[40:]
    return judged(model)


@fault("init", check="dtype")
def orthogonal_rounded_through_bfloat16() -> list[Finding]:
    """Orthogonal in float32, saved as bfloat16, loaded back: W W^T is no longer I."""
    layer = nn.Linear(128, 128)
    apply(layer, "orthogonal")
    with torch.no_grad():
        layer.weight.copy_(layer.weight.bfloat16().float())
    return judged(layer, "orthogonal")
