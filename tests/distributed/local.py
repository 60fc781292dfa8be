"""A training run of processes that are forked: the launcher takes seconds to start them."""

from __future__ import annotations

import atexit
import json
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inspector.core.forking import Nursery, nursery
from inspector.core.processes import free_port, loopback
from inspector.reporting.report import Report

DEADLINE = 120.0
_kept = ExitStack()
atexit.register(_kept.close)


def train(
    trainer: str = "inspector.distributed.loop:Trainer",
    model: str = "tests.distributed.nets:Small",
    nproc: int = 2,
    inputs: tuple[str, ...] = ("float32[4,3,8,8]",),
    settings: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    resume: bool = False,
    work: Callable[..., None] | None = None,
    device: str = "cpu",
) -> Report:
    """Train `model` under `trainer`, and judge it as `inspect ddp` does. `work` runs a process in place of
    `run`, with its folder and rank."""
    from inspector.core.config import dump, load
    from inspector.core.errors import InspectError
    from inspector.distributed.job import Job
    from inspector.distributed.launch import Group, Outcome, errors, refusals
    from inspector.distributed.sections import report

    chosen = {
        "SOLVER.STEPS": 6,
        "SOLVER.VALIDATE_EVERY": 3,
        "DATA.BATCH": 4,
        "DDP.STALL": 30.0,
        **(settings or {}),
    }
    node = load(None, chosen)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        job = Job(
            model, dump(node), list(inputs), str(folder or place), trainer=trainer, resume=resume,
            deadline=time.time() + DEADLINE, device=device,
        )  # fmt: skip
        job.write(place)
        (place / "work.pickle").write_bytes(pickle.dumps(work))
        port, forks = free_port(), _forks()
        workers = [
            forks.child(
                f"{__name__}:forked", [name], place, f"worker{rank}",
                environment={
                    "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(nproc),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
                    **loopback(),
                },
            )
            for rank in range(nproc)
        ]  # fmt: skip
        start = time.monotonic()
        for worker in workers:
            worker.wait(DEADLINE - (time.monotonic() - start))
            worker.end()
        refused = refusals(place)
        if refused:
            raise InspectError(refused[0]["message"], refused[0]["hint"])
        file = place / "evidence.json"
        ranks = json.loads(file.read_text()) if file.exists() else []
        code = max((abs(worker.code or 0) for worker in workers), default=0)
        return report(job, ranks, Outcome(code, errors=errors(place)), Group(nproc))


def launch(trainer: str, kill: bool = False, **settings: Any) -> Report:
    """The same by the real launcher, which watches its processes and starts dead ones again."""
    import inspector

    small = {"DATA.BATCH": 4, "SOLVER.STEPS": 6, "SOLVER.VALIDATE_EVERY": 3, "DATA.SOURCE": "synthetic"}
    report = inspector.ddp(
        "tests.distributed.nets:Small", ["4x3x8x8"], nproc=2, device="cpu", kill=kill,
        settings={**small, **settings}, trainer=trainer,
    )  # fmt: skip
    assert report is not None
    return report


def _forks() -> Nursery:
    """That of the tests; outside of them one for the whole process."""
    modules = "inspector.distributed.rank", "inspector.core.config", "torchvision", "torch._dynamo"
    forks: Nursery = _kept.enter_context(nursery(*modules))
    return forks


def forked(words: list[str]) -> None:
    """One process: `run`, or the work in its place."""
    from inspector.distributed.rank import run

    folder = Path(words[0])
    work = pickle.loads((folder / "work.pickle").read_bytes()) or (lambda folder, rank, world: run(folder))
    try:
        work(folder, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
