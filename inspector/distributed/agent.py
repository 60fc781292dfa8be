"""The process that forks the workers, watches them, and forks them again after one died.

It is itself a fork of a nursery (core/forking.py), which has imported what workers need. On one Linux machine
without GPUs only: a fork keeps no CUDA context, and elsewhere no fork is safe. In every other case torch's
elastic launcher starts the workers (see `launch`).
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

POLL = 0.02
GRACE = 10.0
"""Seconds that the other workers get to end by themselves when one has died."""


def possible(kind: str, nodes: int) -> bool:
    """Whether workers on devices of this kind may be forked."""
    return sys.platform == "linux" and kind == "cpu" and nodes == 1


def main(words: list[str]) -> None:
    """Fork the workers of a job until all end well; exits with 1 where no start did. `words`: the folder of
    the job, how many workers, and how often they may be started again."""
    folder, nproc, restarts = Path(words[0]), int(words[1]), int(words[2])
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m`, which starts workers elsewhere, has it
    parent = os.getppid()
    for attempt in range(restarts + 1):
        codes = _start(folder, nproc, attempt, parent)
        if not any(codes) or _is_told(folder):
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
