"""Faults of checkpoints, and of training that goes on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from inspector.distributed.loop import Trainer
from inspector.reporting.report import Finding
from tests.faults import fault
from tests.faults.ddp.runs import findings


class TornSave(Trainer):
    def write(self, state: dict[str, Any], file: Path) -> None:
        torch.save(state, file)


@fault("ddp", check="checkpoint")
def save_that_is_not_atomic() -> list[Finding]:
    """torch.save onto the checkpoint itself: an interrupt destroys the only one."""
    return findings(TornSave)


class ForgetsMomentum(Trainer):
    def restore(self, state: dict[str, Any]) -> None:
        empty = self.optimizer.state_dict()
        super().restore(state)
        self.optimizer.load_state_dict(empty)


@fault("ddp", check="resume")
def resume_without_the_optimizer() -> list[Finding]:
    """A resume restores the weights and not the momentum."""
    return findings(ForgetsMomentum)


class StartsTheEpochAnew(Trainer):
    def restore(self, state: dict[str, Any]) -> None:
        super().restore({**state, "batch": 0})


@fault("ddp", check="resume")
def resume_at_the_start_of_the_epoch() -> list[Finding]:
    """A resume forgets how far the epoch was: samples are seen twice."""
    return findings(StartsTheEpochAnew)
