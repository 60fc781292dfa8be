"""Clean models that draw random numbers in train mode."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean
from tests.faults.freeze.nets import Tokens, checked, claim, net, tokens_claim


@clean("freeze")
def functional_dropout() -> list[Finding]:
    """Dropout without a module, and dropout inside attention: random, yet not mixed by the batch."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.project(x).chunk(3, dim=-1)
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5 if self.training else 0.0)
            return F.dropout(x, 0.5, self.training)

    class Attending(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(Attention()) for _ in range(4)])

    model = net(cls=Attending)
    claimed = tokens_claim(model, 3)
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.status for f in findings if f.check == "batch_independence"] == ["pass"]
    return findings


@clean("freeze")
def noise_without_a_name() -> list[Finding]:
    """Noise that no rule knows: the comparison is skipped, and says so."""

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x) if self.training else x

    model = net(norm=lambda n: Noise())
    claimed = claim(model, at=1)
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.status for f in findings if f.check == "batch_independence"] == ["skip"]
    return findings
