"""How the faults of data-parallel training are run."""

from __future__ import annotations

from typing import Any

from inspector.distributed.loop import Trainer
from inspector.reporting.report import Finding
from tests.distributed.local import train

FREEZE = {"FREEZE.PATTERNS": "['stem.*']"}


def findings(trainer: type[Trainer], **options: Any) -> list[Finding]:
    """What `inspect ddp` says of a training by `trainer`, in forked processes."""
    return train(f"{trainer.__module__}:{trainer.__name__}", **options).findings


class Plain(Trainer):
    """The trainer as it is; the fault is in the model."""
