"""A training run of processes that are forked: the launcher takes seconds to start them."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from inspector.reporting.report import Report

DEADLINE = 120.0


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
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            ["inspector.distributed.rank", "inspector.distributed.fsdp", "torchvision", "PIL.Image"]
        )
        port = _free_port()
        workers = [
            context.Process(target=_work, args=(place, rank, nproc, port, work)) for rank in range(nproc)
        ]
        start = time.monotonic()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(max(1.0, DEADLINE - (time.monotonic() - start)))
            if worker.is_alive():
                worker.kill()
        refused = refusals(place)
        if refused:
            raise InspectError(refused[0]["message"], refused[0]["hint"])
        file = place / "evidence.json"
        ranks = json.loads(file.read_text()) if file.exists() else []
        code = max((abs(worker.exitcode or 0) for worker in workers), default=0)
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _work(folder: Path, rank: int, world: int, port: int, work: Callable[..., None] | None) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port), OMP_NUM_THREADS="1",
    )  # fmt: skip
    if os.uname().sysname == "Linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch

    torch.set_num_threads(1)
    from inspector.distributed.rank import run

    log = (folder / f"worker{rank}.log").open("w")
    os.dup2(log.fileno(), 2)
    try:
        if work is None:
            run(folder)
        else:
            work(folder, rank, world)
    except BaseException:
        traceback.print_exc()
        raise SystemExit(1) from None
