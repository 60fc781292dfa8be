"""Mixtures of experts, and blocks that a forward forgets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import checked, claim, net


class Mixture(nn.Module):
    """Sixteen experts, of which a gate chooses one for each sample: (N, 6) to (N, 3)."""

    def __init__(self, experts: int = 16) -> None:
        super().__init__()
        self.project = nn.Linear(6, 8)
        self.gate = nn.Linear(8, experts)
        self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(experts)])
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x)
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mask = chosen == number
            if mask.any():
                mixed[mask] = expert(x[mask]) * weight[mask, None]
        return self.head(mixed)


def _mixture(model: nn.Module) -> list[Finding]:
    claimed = claim(model, at=None, patterns=["project.*"])
    apply(model, claimed)
    return checked(model, claimed, torch.randn(2, 6, generator=torch.Generator().manual_seed(1)))


@clean("freeze", "moved")
def experts_without_a_token() -> list[Finding]:
    """Two samples reach at most a few of sixteen experts: the others are named, not accused."""
    findings = _mixture(net(cls=Mixture))
    (warning,) = [f for f in findings if f.check == "moved" and f.status == "warn"]
    assert all(name.startswith("experts.") for name in warning.evidence["names"])
    return findings


@clean("freeze", "moved")
def collapsed_router() -> list[Finding]:
    """The gate sends everything to one expert, whatever the data."""
    model = net(cls=Mixture)
    with torch.no_grad():
        model.gate.bias[3] = 100.0
    return _mixture(model)


@fault("freeze", check="moved")
def gate_without_a_gradient() -> list[Finding]:
    """The chosen expert is not weighted by the gate, which therefore never learns."""

    class Unweighted(Mixture):
        def forward(self, x: Tensor) -> Tensor:
            x = self.project(x)
            chosen = self.gate(x).argmax(-1)
            rows = [self.experts[int(k)](row) for k, row in zip(chosen, x)]
            return self.head(torch.stack(rows))

    return _mixture(net(cls=Unweighted))


@fault("freeze", check="moved")
def block_that_the_loop_forgets() -> list[Finding]:
    """Off by one in a loop over blocks of one kind: they look like experts, but nothing chooses."""

    class Blocks(Mixture):
        def forward(self, x: Tensor) -> Tensor:
            x = self.project(x)
            x = x * self.gate(x).softmax(-1).sum(-1, keepdim=True)
            for block in self.experts[:-1]:
                x = x + block(x)
            return self.head(x)

    return _mixture(net(cls=Blocks))
