"""A fault of the signal that a random input makes, and a model that passes it on."""

from __future__ import annotations

import torch
from torch import nn

from inspector.initialization.propagation import propagate
from inspector.reporting.report import Finding
from tests.faults import clean, fault


def deep(std: float) -> nn.Module:
    """Twelve layers with ReLU, of width 64."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 64) for _ in range(12)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=std)
    return nn.Sequential(*(module for layer in layers for module in (layer, nn.ReLU())))


@fault("init", check="propagation")
def activations_that_overflow() -> list[Finding]:
    """Each layer multiplies the signal by 8,000: after ten it is infinite in float32."""
    return propagate(deep(std=1414.0), (torch.randn(8, 64),), {}).findings


@clean("init", "propagation")
def signal_that_keeps_its_size() -> list[Finding]:
    """He's initialisation: the second moment stays the same from layer to layer."""
    return propagate(deep(std=(2 / 64) ** 0.5), (torch.randn(8, 64),), {}).findings
