"""What the checks of a frozen model read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from inspector.freezing.ddp import Parallel
from inspector.freezing.evidence import Evidence
from inspector.freezing.plan import Plan


@dataclass(frozen=True)
class Case:
    """The live model, the claim, and the record of the training steps; `optimizer` is a training script's
    own one, `parallel` what two processes saw. `strict`: what could not be verified fails."""

    model: nn.Module
    plan: Plan
    evidence: Evidence
    optimizer: torch.optim.Optimizer | None = None
    parallel: Parallel | None = None
    strict: bool = False

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters under all of their names."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    @property
    def count(self) -> int:
        """How many parameters are to be frozen."""
        return len(self.plan.parameters)
