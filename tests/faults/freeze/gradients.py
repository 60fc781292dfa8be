"""Faults of gradients: where they should not be, and where they are missing."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from inspector.freezing import Plan, apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import (
    Net,
    Tokens,
    checked,
    claim,
    frozen_at,
    images,
    net,
    replace_trainable,
    tokens_claim,
)


@fault("freeze", check="stale_gradient")
def stale_gradient() -> list[Finding]:
    """Frozen in the middle of training: the last gradient is still there, and AdamW applies it."""
    model = net()
    model(images()).sum().backward()
    before = model.conv1.weight.grad
    claimed = claim(model)
    apply(model, claimed)
    model.conv1.weight.grad = before
    return checked(model, claimed)


@fault("freeze", check="parameters")
def zero_gradient() -> list[Finding]:
    """A gradient of zeros instead of None: weight decay moves the frozen weight."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    model.conv1.weight.grad = torch.zeros_like(model.conv1.weight)
    return checked(model, claimed)


@fault("freeze", check="gradients")
def missing_position_embedding() -> list[Finding]:
    """The bare position embedding gets a gradient."""
    model = net(cls=Tokens)
    claimed = tokens_claim(model, 1)
    apply(model, claimed)
    model.pos_embed.requires_grad_(True)
    return checked(model, claimed)


@fault("freeze", check="gradients")
def train_unfreezes() -> list[Finding]:
    """The model's own train() sets requires_grad again."""

    class Unfreezing(Net):
        def train(self, mode: bool = True) -> nn.Module:
            for parameter in self.parameters():
                parameter.requires_grad_(mode)
            return super().train(mode)

    model = net(cls=Unfreezing)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="gradients")
def gradient_written_by_a_hook() -> list[Finding]:
    """A hook of another layer writes into the frozen weight's gradient."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)

    class Write(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, module: nn.Module) -> Tensor:
            ctx.module = module
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            ctx.module.weight.grad = torch.ones_like(ctx.module.weight)
            return grad, None

    class Writing(nn.Module):
        def __init__(self, frozen: nn.Module) -> None:
            super().__init__()
            self.frozen = [frozen]

        def forward(self, x: Tensor) -> Tensor:
            return Write.apply(x, self.frozen[0])

    model.layer3 = nn.Sequential(model.layer3, Writing(model.conv1))
    return checked(model, replace_trainable(claimed, model))


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(self.layer3(self.layer2(x)).detach().mean(dim=(2, 3)))


@fault("freeze", check="moved")
def detached_too_late() -> list[Finding]:
    """The cut with .detach() also cuts off two stages that should train."""
    model = net(cls=Detached)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="moved")
def no_grad_backbone() -> list[Finding]:
    """The whole backbone runs under torch.no_grad(), its upper stages with it."""

    class WithoutGrad(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
                x = self.layer3(self.layer2(x))
            return self.fc(x.mean(dim=(2, 3)))

    model = net(cls=WithoutGrad)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="moved")
def unused_head() -> list[Finding]:
    """A trainable head that the forward does not use."""
    model = net()
    model.auxiliary = nn.Linear(8, 3)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


class Prompted(Net):
    def __init__(self) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.zeros(1, 3, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.prompt)


@fault("freeze", check="prefix_grad")
def prompt_before_the_stem() -> list[Finding]:
    """A learnable prompt in front of the frozen stages: the backward runs through all of them."""
    model = net(cls=Prompted)
    claimed = claim(model)
    apply(model, claimed)
    model.prompt.requires_grad_(True)
    return checked(model, replace_frozen(claimed, "prompt"))


def replace_frozen(claimed: Plan, name: str) -> Plan:
    """The claim with one bare parameter left to train."""
    assert claimed.backbone is not None
    stages = tuple(
        dataclasses.replace(stage, parameters=tuple(n for n in stage.parameters if n != name))
        for stage in claimed.backbone.stages
    )
    return dataclasses.replace(
        claimed,
        parameters=tuple(n for n in claimed.parameters if n != name),
        trainable=tuple(dict.fromkeys((*claimed.trainable, name))),
        backbone=dataclasses.replace(claimed.backbone, stages=stages),
    )


@clean("freeze")
def bfloat16_model() -> list[Finding]:
    """Steps that move every weight although bfloat16 rounds."""
    return frozen_at(net().bfloat16(), 2, images().bfloat16())


@clean("freeze")
def layers_dropped_at_random() -> list[Finding]:
    """A trainable block that most steps leave out (layer drop)."""

    class Dropping(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
            if not self.training or torch.rand(()) < 0.3:
                x = self.layer2(x)
            return self.fc(self.layer3(x).mean(dim=(2, 3)))

    return frozen_at(net(cls=Dropping), 2)
