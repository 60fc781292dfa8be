"""Workers that are forked from a process which has imported what they need, also those that are started again
after one died. On one Linux machine without GPUs only: a fork keeps no CUDA context, and elsewhere no fork is
safe. In every other case torch's elastic launcher starts the workers (see `launch`).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from inspector.core.forking import Nursery
from inspector.core.processes import Child, free_port, loopback

POLL = 0.02
GRACE = 5.0
"""Seconds that the other workers get to end by themselves when one has died."""
PRELOADED = ("inspector.distributed.rank", "inspector.core.config", "torch._dynamo")
"""torch imports its compiler in the first step of any optimizer."""
IMAGES = ("torchvision", "PIL.Image")
SHARDED = ("inspector.distributed.fsdp",)


def possible(kind: str, nodes: int) -> bool:
    """Whether workers on devices of this kind may be forked."""
    return sys.platform == "linux" and kind == "cpu" and nodes == 1


class Workers:
    """`nproc` forked workers of the job in `folder`, to the caller like one `Child`: `code` is None while
    they run, and 0 when all have ended well. Where one dies the others are ended, and all are started again,
    up to `restarts` times."""

    def __init__(self, forks: Nursery, folder: Path, nproc: int, restarts: int, function: str) -> None:
        self.forks, self.folder, self.nproc, self.restarts = forks, folder, nproc, restarts
        self.function = function
        self.code: int | None = None
        self.deaths: list[str] = []
        self.attempt = -1
        self._start()

    def wait(self, seconds: float) -> bool:
        """Whether they end within `seconds`."""
        end = time.monotonic() + seconds
        while self.code is None:
            self._look()
            if self.code is None and time.monotonic() > end:
                return False
            time.sleep(POLL)
        return True

    def end(self, grace: float = 0.0) -> None:
        """End them: by SIGTERM, then after `grace` seconds by SIGKILL."""
        for child in self.children:
            child.end(grace)
        self.code = 1 if self.code is None else self.code

    def printed(self) -> str:
        """Which of them died, and how."""
        return "\n".join(self.deaths)

    def _start(self) -> None:
        self.attempt += 1
        port, threads = free_port(), max(1, (os.cpu_count() or 1) // self.nproc)
        shared = {
            "WORLD_SIZE": str(self.nproc), "LOCAL_WORLD_SIZE": str(self.nproc), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "TORCHELASTIC_RESTART_COUNT": str(self.attempt),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)), **loopback(),
        }  # fmt: skip
        search = [*sys.path, os.getcwd()]  # as `python -m`, which starts workers elsewhere, has it
        self.children: list[Child] = [
            self.forks.child(
                self.function, [str(self.folder)], self.folder / "agents", f"rank{rank}.{self.attempt}",
                search=search, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(self.nproc)
        ]  # fmt: skip

    def _look(self) -> None:
        """See who has ended, and start again where one died."""
        codes = [child.code for child in self.children]
        if not any(codes):
            self.code = None if None in codes else 0
            return
        self.deaths += [
            f"rank {rank}, start {self.attempt}: exitcode: {code}" for rank, code in enumerate(codes) if code
        ]
        for child in self.children:
            child.end(GRACE)
        if self.attempt < self.restarts and not self._told():
            self._start()
        else:
            self.code = 1

    def _told(self) -> bool:
        """Whether a worker wrote down why it cannot go on: it would only do so again."""
        return any(True for kind in ("error", "refused") for _ in self.folder.glob(f"{kind}*.json"))
