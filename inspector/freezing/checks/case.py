"""What the checks of a frozen model read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from inspector.freezing.ddp import Parallel
from inspector.freezing.evidence import Evidence
from inspector.freezing.plan import Plan
from inspector.models.memory import neighbours, overlap
from inspector.models.replica import named_state


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

    @cached_property
    def tied(self) -> dict[str, str]:
        """Frozen tensors that share memory with something that is not frozen, or with another name of
        theirs that is not: each with the first such name."""
        tensors = dict(named_state(self.model))
        frozen = [*self.plan.parameters, *self.plan.buffers]
        same = {id(self.tensors[name]) for name in self.plan.parameters}
        free = [n for n in self.tensors if n in self.plan.trainable or id(self.tensors[n]) in same]
        free = [n for n in free if n not in self.plan.parameters]
        ties: dict[str, str] = {}
        for group in neighbours({name: tensors[name] for name in dict.fromkeys((*frozen, *free))}):
            held = [name for name in frozen if name in group]
            for name in (name for name in free if name in group):
                other = next((one for one in held if overlap(tensors[name], tensors[one])), None)
                if other is not None:
                    ties.setdefault(other, name)
        return ties

    @property
    def count(self) -> int:
        """How many parameters are to be frozen."""
        return len(self.plan.parameters)
