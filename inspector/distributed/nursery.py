"""Workers that are forked from a process which has imported what they need, and computed nothing.

It starts while the caller still reads the model, so that an import that costs every process seconds happens
once, and beside other work; also those that are started again after one died are forked. On one Linux machine
without GPUs only: a fork keeps no CUDA context, and elsewhere no fork is safe. In every other case torch's
elastic launcher starts the workers (see `launch`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from inspector.core.files import write_whole
from inspector.core.processes import Child, loopback, unwatched

POLL = 0.02
GRACE = 10.0
"""Seconds that the other workers get to end by themselves when one has died."""
PRELOADED = ("inspector.distributed.rank", "torch._dynamo")
"""torch imports its compiler in the first step of any optimizer."""
IMAGES = ("torchvision", "PIL.Image")
ORDERS = "start.json"


def possible(kind: str, nodes: int) -> bool:
    """Whether workers on devices of this kind may be forked."""
    return sys.platform == "linux" and kind == "cpu" and nodes == 1


class Nursery:
    """The process that workers are forked from; it waits for `begin`."""

    def __init__(self, folder: Path, threads: int, modules: Sequence[str]) -> None:
        self.folder = folder
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)), **loopback()}
        words = [str(folder / ORDERS), *modules]
        self.child = Child(f"{__name__}:main", words, folder, "agent", environment=environment)

    def begin(self, job: Path, nproc: int, restarts: int) -> Child:
        """Fork the workers of the job in the folder `job`; the child ends with them, 0 where all did well."""
        orders = {"folder": str(job), "nproc": nproc, "restarts": restarts}
        write_whole(self.folder / ORDERS, json.dumps(orders))
        return self.child


@contextmanager
def nursery(wanted: bool, nproc: int, *, images: bool, sharded: bool) -> Iterator[Nursery | None]:
    """A nursery whose process ends with the context; None unless `wanted`. `images`, `sharded`: what the
    workers will import."""
    if not wanted:
        yield None
        return
    more = [name for name in IMAGES if images and find_spec(name.partition(".")[0])]
    more += ["inspector.distributed.fsdp"] if sharded else []
    folder = Path(tempfile.mkdtemp(prefix="inspector-ddp-"))
    try:
        made = Nursery(folder, max(1, (os.cpu_count() or 1) // nproc), [*PRELOADED, *more])
        try:
            yield made
        finally:
            made.child.end()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(words: list[str]) -> None:
    """The process: import, wait for orders, fork. Exits with 1 where a worker did not end well."""
    orders = Path(words[0])
    for name in words[1:]:
        with suppress(Exception):  # a worker that needs it raises the same, and says so
            import_module(name)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m`, which starts workers elsewhere, has it
    parent = unwatched()  # a fork takes no thread along
    while not orders.exists():
        _end_without(parent)
        time.sleep(POLL)
    asked = json.loads(orders.read_text())
    for attempt in range(asked["restarts"] + 1):
        codes = _start(Path(asked["folder"]), asked["nproc"], attempt, parent)
        if not any(codes) or _is_told(Path(asked["folder"])):
            break
    sys.exit(1 if any(codes) else 0)


def _is_told(folder: Path) -> bool:
    """Whether a worker wrote down why it cannot go on: it would only do so again."""
    return any(True for kind in ("error", "refused") for _ in folder.glob(f"{kind}*.json"))


def _end_without(parent: int) -> None:
    """End with all workers when the process that started this one is gone."""
    if os.getppid() != parent:
        os.killpg(os.getpid(), signal.SIGKILL)


def _start(folder: Path, nproc: int, attempt: int, parent: int) -> list[int]:
    """Fork all workers and wait for them; their exit codes. When one dies the others are ended."""
    port, alive, codes = _free_port(), {}, [0] * nproc
    for rank in range(nproc):
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            sys.exit(_worker(folder, rank, nproc, port, attempt))
        alive[child] = rank
    deadline = float("inf")
    while alive:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child in alive:
            rank = alive.pop(child)
            codes[rank] = os.waitstatus_to_exitcode(status)
            if codes[rank]:
                print(f"rank {rank}, start {attempt}: exitcode: {codes[rank]}", flush=True)
        elif child == 0:
            _end_without(parent)
            time.sleep(POLL)
        if any(codes):
            deadline = min(deadline, time.monotonic() + GRACE)
            _end(alive, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
    return codes


def _end(alive: dict[int, int], number: int) -> None:
    for child in alive:
        with suppress(ProcessLookupError):
            os.kill(child, number)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _worker(folder: Path, rank: int, nproc: int, port: int, attempt: int) -> int:
    """What a forked process does, with the environment that torchrun would give it."""
    log = (folder / "agents" / f"rank{rank}.{attempt}.log").open("wb")
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(nproc), LOCAL_WORLD_SIZE=str(nproc),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RESTART_COUNT=str(attempt),
    )  # fmt: skip
    from inspector.distributed.start import main

    return main([str(folder)])
