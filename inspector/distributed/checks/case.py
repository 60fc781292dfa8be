"""What the checks of a training run read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from inspector.distributed.job import Job
from inspector.distributed.launch import Outcome


@dataclass(frozen=True)
class Case:
    """What each rank saw, rank 0 first (see `evidence` and `worker`), the settings of the run, and how its
    processes ended (None: somebody else started them)."""

    job: Job
    ranks: list[dict[str, Any]] = field(default_factory=list)
    outcome: Outcome | None = None

    @cached_property
    def settings(self) -> Any:
        """The configuration as a tree of attributes."""
        return self.job.settings

    @property
    def sharded(self) -> bool:
        """Whether FSDP2 ran, in place of DDP."""
        return bool(self.settings.DDP.SHARD == "fsdp")

    def part(self, name: str) -> list[dict[str, Any]]:
        """One part of every rank's evidence; empty unless all ranks have it."""
        parts = [rank.get(name) for rank in self.ranks]
        return [part for part in parts if part is not None] if None not in parts else []

    @property
    def names(self) -> list[str]:
        """The parameters."""
        names: list[str] = self.ranks[0]["before"]["names"]
        return names


def differing(rows: Sequence[list[int]], names: list[str]) -> list[str]:
    """The names whose numbers are not the same in all rows."""
    if any(len(row) != len(rows[0]) for row in rows):
        return ["(their number)"]
    return [name for name, *values in zip(names, *rows) if len(set(values)) > 1]
