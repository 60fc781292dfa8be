"""Small networks to freeze, and how the faults verify them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from inspector.backbones import find_stages
from inspector.freezing import Plan, apply, plan, verify
from inspector.freezing.apply import Undo, freeze_parameters
from inspector.reporting.report import Finding
from inspector.tracing.capture.isolate import random_state, seed_all

Block = Callable[[int, int], nn.Module]


def conv_norm(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """A stem and three stages in small; `block` makes the stages, `norm` the stem's normalisation."""

    def __init__(self, block: Block = conv_norm, norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.bn1 = norm(8)
        self.layer1 = block(8, 8)
        self.layer2 = block(8, 8)
        self.layer3 = block(8, 8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(x)).mean(dim=(2, 3)))


def net(*args: Any, cls: type[nn.Module] = Net, **kwargs: Any) -> nn.Module:
    with random_state():
        seed_all(0)
        return cls(*args, **kwargs)


def images(size: int = 16, batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def claim(model: nn.Module, at: int | None = 2, patterns: Sequence[str] = (), norm: str = "freeze") -> Plan:
    return plan(model, find_stages(model) if at is not None else None, at, patterns=patterns, norm=norm)


def checked(model: nn.Module, claimed: Plan, x: Tensor | None = None, **options: Any) -> list[Finding]:
    return verify(model, claimed, (images() if x is None else x,), {}, **{"ddp": False, **options})


def naive(model: nn.Module, claimed: Plan) -> None:
    """requires_grad=False, and nothing else."""
    freeze_parameters(model, claimed, Undo())


class Tokens(nn.Module):
    """A small vision transformer with bare parameters."""

    def __init__(self, depth: int = 4) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, 8))
        self.blocks = nn.ModuleList(
            [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True) for _ in range(depth)]
        )
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def tokens_claim(model: nn.Module, at: int) -> Plan:
    from inspector.tracing.capture import capture

    return plan(model, find_stages(model, capture(model, (images().to("meta"),))), at)


def replace_trainable(claimed: Plan, model: nn.Module) -> Plan:
    """The claim as it was made before anybody froze anything."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    frozen = set(claimed.parameters)
    return dataclasses.replace(claimed, trainable=tuple(name for name in names if name not in frozen))


def frozen_at(model: nn.Module, at: int, x: Tensor | None = None, **options: Any) -> list[Finding]:
    claimed = claim(model, at)
    apply(model, claimed)
    return checked(model, claimed, x, **options)
