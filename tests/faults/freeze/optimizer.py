"""Faults of the training script's optimizer."""

from __future__ import annotations

import copy

import torch

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import checked, claim, net


@fault("freeze", check="optimizer")
def optimizer_before_unfreezing() -> list[Finding]:
    """The optimizer was built from what required grad then; a stage unfrozen later never moves."""
    model = net()
    undo = apply(model, claim(model, at=3))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    undo()
    claimed = claim(model, at=2)
    apply(model, claimed)
    return checked(model, claimed, optimizer=optimizer)


@fault("freeze", check="optimizer")
def optimizer_on_another_copy() -> list[Finding]:
    """The optimizer holds the parameters of a copy."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed, optimizer=torch.optim.AdamW(copy.deepcopy(model).parameters()))


@fault("freeze", check="optimizer")
def optimizer_applies_a_stale_gradient() -> list[Finding]:
    """A frozen parameter is in the optimizer and still holds a gradient."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    model.conv1.bias.grad = torch.ones_like(model.conv1.bias)
    return checked(model, claimed, optimizer=torch.optim.AdamW(model.parameters()))


@fault("freeze", check="optimizer")
def learning_rate_of_zero() -> list[Finding]:
    """A group whose learning rate is 0: what should train never moves."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    groups = [{"params": model.layer2.parameters(), "lr": 0.0}, {"params": [*model.layer3.parameters()]}]
    groups.append({"params": model.fc.parameters()})
    return checked(model, claimed, optimizer=torch.optim.SGD(groups, lr=0.1))


@clean(
    "freeze",
    *"requires_grad stale_gradient ties train_mode parameters buffers moved gradients".split(),
    *"batch_independence prefix_output prefix_grad optimizer".split(),
)
def filtered_optimizer() -> list[Finding]:
    """The optimizer of a careful script."""
    model = net()
    claimed = claim(model)
    apply(model, claimed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    return checked(model, claimed, optimizer=optimizer)
