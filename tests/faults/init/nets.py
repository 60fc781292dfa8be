"""A small network to initialise, and how the faults verify it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from inspector.initialization.apply import apply
from inspector.initialization.expect import auto, expect
from inspector.initialization.schemes import choose
from inspector.initialization.targets import chosen, of_model
from inspector.reporting.report import Finding


class Net(nn.Module):
    """Three convolutions and a head whose fans all differ, with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, 3)
        self.conv2 = nn.Conv2d(24, 80, 3)
        self.norm = nn.BatchNorm2d(80)
        self.head = nn.Linear(80, 40)


def net(scheme: str = "c2_xavier_fill", seed: int = 0, **options: Any) -> Net:
    """A correctly initialised `Net`."""
    model = Net()
    apply(model, scheme, seed=seed, **options)
    return model


def judged(
    model: nn.Module, scheme: str = "c2_xavier_fill", layers: list[str] | None = None, **options: Any
) -> list[Finding]:
    """The findings of --expect."""
    if scheme == "auto":
        return auto(of_model(model)).findings
    choice = choose(scheme, **options)
    selected = chosen(of_model(model), layers, everything=scheme == "default")
    return expect(selected, choice).findings


@torch.no_grad()
def drawn(tensor: Tensor, seed: int = 1) -> Tensor:
    """The tensor drawn right: kaiming_uniform a=1."""
    torch.manual_seed(seed)
    return nn.init.kaiming_uniform_(tensor, a=1)


def applied(model: nn.Module, scheme: str, **options: Any) -> list[Finding]:
    """Apply, then verify what was written."""
    done = apply(model, scheme, **options)
    return [*expect(done.targets, done.choice).findings, *done.findings]
