"""What the launcher tells its workers, as files in one folder, and where a worker runs."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.files import write_whole


@dataclass(frozen=True)
class Job:
    """One run. `config` is YAML; `inputs` are strings of the input grammar, the first tensor with the
    batch of one process; `output` is where checkpoints and logs go; `trainer` names a class
    ("module:Class"); `kill` says to kill a worker on purpose, `deadline` is in seconds since the epoch;
    `launched`: `inspect ddp` started the workers, and watches them."""

    model: str
    config: str
    inputs: list[str]
    output: str
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    seed: int = 0
    device: str = "cpu"
    trainer: str = "inspector.distributed.loop:Trainer"
    resume: bool = False
    kill: bool = False
    deadline: float = 0.0
    verbose: bool = False
    launched: bool = False

    def write(self, folder: Path) -> None:
        """Save it as job.json."""
        write_whole(folder / "job.json", json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(folder: Path) -> Job:
        """The job of a folder."""
        return Job(**json.loads((folder / "job.json").read_text()))

    @cached_property
    def settings(self) -> Any:
        """The configuration as a tree of attributes, read once."""
        from inspector.core.config import parse

        return parse(self.config)


@dataclass(frozen=True)
class Place:
    """Where a worker runs: its numbers in the group, its device, and which start of the group it is."""

    rank: int
    world: int
    local: int
    device: str
    attempt: int = 0

    @staticmethod
    def of(environment: dict[str, str] | os._Environ[str], kind: str) -> Place:
        """From RANK, LOCAL_RANK and WORLD_SIZE, or SLURM's names for them.

        Raises InspectError for values that are not numbers."""
        adopt_slurm(environment)
        try:
            rank, world = int(environment["RANK"]), int(environment["WORLD_SIZE"])
            local = int(environment.get("LOCAL_RANK", "0"))
        except (KeyError, ValueError) as error:
            raise InspectError(
                f"RANK, LOCAL_RANK or WORLD_SIZE is missing or no number: {error}",
                "start it by torchrun, or with `nproc=`",
            ) from error
        if kind.startswith("cuda"):
            import torch

            cards = torch.cuda.device_count()  # SLURM may show each task its own GPU alone, as 0
            local = local % cards if cards else local
        device = f"cuda:{local}" if kind.startswith("cuda") else "cpu"
        return Place(rank, world, local, device, int(environment.get("TORCHELASTIC_RESTART_COUNT", "0")))


def adopt_slurm(environment: Any) -> None:
    """Give srun's task numbers the names that torchrun gives them; the address must be set."""
    if "RANK" in environment or int(environment.get("SLURM_NTASKS", "1")) < 2:
        return
    if "SLURM_PROCID" not in environment or "MASTER_ADDR" not in environment:
        return
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", "0")
    environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
    environment.setdefault("MASTER_PORT", "29500")
