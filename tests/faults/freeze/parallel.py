"""Faults under DistributedDataParallel."""

from __future__ import annotations

from torch import nn

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import checked, claim, frozen_at, images, net


def freeze_layer2(wrapped: nn.Module) -> None:
    wrapped.module.layer2.requires_grad_(False)


def unfreeze_layer2(wrapped: nn.Module) -> None:
    wrapped.module.layer2.requires_grad_(True)


@fault("freeze", check="ddp")
def frozen_after_the_wrap() -> list[Finding]:
    """A stage is frozen after DistributedDataParallel has counted on its gradients."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed, ddp=True, prepare=f"{__name__}:freeze_layer2")


@fault("freeze", check="ddp")
def unfrozen_after_the_wrap() -> list[Finding]:
    """Gradual unfreezing after the wrap: the new gradients are never averaged."""
    model = net()
    claimed = claim(model, at=2)
    apply(model, claimed)
    model.layer2.requires_grad_(False)
    return checked(model, claimed, ddp=True, prepare=f"{__name__}:unfreeze_layer2")


@fault("freeze", check="ddp")
def unused_under_ddp() -> list[Finding]:
    """A trainable parameter without a gradient: the second DDP step raises."""
    model = net()
    model.auxiliary = nn.Linear(8, 3)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed, ddp=True)


@clean("freeze", "ddp")
def resnet18_two_stages() -> list[Finding]:
    """torchvision's resnet18 with two stages, and a DDP step."""
    from torchvision.models import resnet18

    return frozen_at(net(cls=resnet18), 2, images(32), ddp=True)
