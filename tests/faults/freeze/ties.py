"""Faults of shared memory."""

from __future__ import annotations

from torch import Tensor, nn

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import checked, claim, frozen_at, net


@fault("freeze", check="ties")
def view_tied_weight() -> list[Finding]:
    """A trainable parameter is a view of a frozen one's memory."""
    model = net()
    model.layer3[0].weight = nn.Parameter(model.layer1[0].weight.data.view(8, 8, 3, 3))
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze")
def tied_weights_all_frozen() -> list[Finding]:
    """One parameter under two names, both in the frozen part."""
    model = net()
    model.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    model.layer1[1].weight = model.layer1[0].weight
    return frozen_at(model, 2)


@clean("freeze")
def tied_to_a_trainable_name() -> list[Finding]:
    """An output layer that is the frozen embedding itself: said, not accused."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 8, bias=False)
            self.mix = nn.Linear(8, 8)
            self.head = nn.Linear(3, 8, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.embed(x.mean(dim=(2, 3)))) @ self.head.weight

    model = net(cls=Tied)
    claimed = claim(model, at=None, patterns=["embed.weight"])
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.subject for f in findings if f.check == "ties" and f.status == "warn"] == ["head.weight"]
    return findings
