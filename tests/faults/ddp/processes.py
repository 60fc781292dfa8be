"""Faults of processes: one that stops moving, raises, dies, or comes back in the wrong place."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from inspector.distributed.loop import Batch, Trainer
from inspector.reporting.report import Finding
from tests.distributed.local import launch
from tests.faults import clean, fault
from tests.faults.ddp.runs import findings


class Sleeps(Trainer):
    """Rank 1 stops moving."""

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        while self.place.rank == 1 and self.step == 2 and wrapped is self.wrapped:
            time.sleep(1.0)
        return super().train_step(wrapped, optimizer, batches)


@fault("ddp", check="deadlock")
def rank_that_stops_moving() -> list[Finding]:
    """One rank never comes back from a step: the others wait for its gradients."""
    report = launch(f"{__name__}:Sleeps", **{"DDP.STALL": 8, "DDP.DEADLINE": 100})
    found = [finding for finding in report.findings if finding.check == "deadlock"]
    assert found[0].subject == "rank 1"
    assert any("train_step" in finding.message for finding in found)
    return report.findings


class Raises(Trainer):
    """Rank 1 raises."""

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        if self.place.rank == 1 and self.step == 2:
            raise ValueError("planted here")
        return super().train_step(wrapped, optimizer, batches)


@fault("ddp", check="worker")
def rank_that_raises() -> list[Finding]:
    """One rank raises in the middle of the training."""
    return findings(Raises)


class DiesOnce(Trainer):
    """Rank 1 is killed by a signal in the first start of the group."""

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        if self.place.rank == 1 and self.step == 4 and self.place.attempt == 0 and wrapped is self.wrapped:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(wrapped, optimizer, batches)


class GoesOnElsewhere(Trainer):
    """Counts one step too many when it is started again."""

    def restore(self, state: dict[str, Any]) -> None:
        super().restore({**state, "step": state["step"] + bool(self.place.attempt)})


@fault("ddp", check="killed")
def goes_on_at_another_step() -> list[Finding]:
    """Workers that are started again after a kill go on one step behind their checkpoint."""
    return launch(f"{__name__}:GoesOnElsewhere", kill=True).findings


@clean("ddp", "deadlock", "worker", "killed", "resume")
def worker_that_is_killed() -> list[Finding]:
    """A worker is killed, the group is started again and goes on at the checkpoint."""
    report = launch("tests.faults.ddp.runs:Plain", kill=True)
    killed = next(finding for finding in report.findings if finding.check == "killed")
    assert (killed.subject, killed.evidence["at"], killed.evidence["step"]) == ("rank 1", 4, 3)
    return report.findings
