"""A frozen model under DistributedDataParallel: two processes (gloo, CPU) take two training steps."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.core.errors import first_line
from inspector.core.forking import Nursery, nursery
from inspector.core.processes import Child, cores, loopback
from inspector.freezing.plan import Plan

RANKS = 2
_WORKER = "inspector.freezing.ddp_worker"  # in its first step an optimizer imports torch's compiler too
DEADLINE = 180.0
"""Seconds after which the processes count as deadlocked."""


@dataclass(frozen=True)
class Parallel:
    """What each rank reported, or why there is nothing: an `obstacle`, or the seconds until it was called a
    `deadlock`."""

    ranks: list[dict[str, Any]] = field(default_factory=list)
    obstacle: str = ""
    deadlock: float = 0.0


def _folders(modules: Iterable[str]) -> Iterator[str]:
    """Where the modules of these names were imported from: a user's file may have found its neighbours in a
    folder that is on the path only while that file is imported."""
    for name in modules:
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None:
            place = Path(file).resolve()
            yield str(
                place.parents[min(name.count(".") + (place.stem == "__init__"), len(place.parents) - 1)]
            )


@contextmanager
def _threads_left() -> Iterator[None]:
    """As many threads as the two processes leave processors: more would wait for each other, and busily."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, max(1, cores() - RANKS)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class TwoProcesses:
    """Two processes, started at once: they import torch while this one works. `wait()` gives the outcome.

    `prepare` names a function ("module:function") that each process calls on the wrapped model
    before the first step: what a training script does after the wrap. Use as a context manager.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, args: Any, kwargs: Any, seed: int, prepare: str = ""
    ) -> None:
        self.stack = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="inspector-ddp-"))
        self.processes: list[Child] = []
        self.plan = plan
        payload = {
            "model": model,
            "trainable": plan.trainable,
            "frozen": plan.parameters,
            "inputs": (args, kwargs),
            "seed": seed,
            "prepare": prepare,
        }
        try:
            self.why_not = self._obstacle(model) or self._not_saved(payload)
            if not self.why_not:
                forks = self.stack.enter_context(nursery(_WORKER, "torch._dynamo"))
                self.processes += [self._start(forks, rank, model) for rank in range(RANKS)]
                self.stack.enter_context(_threads_left())
        except BaseException:  # interrupted: no __exit__ will come
            self.__exit__()
            raise

    def _not_saved(self, payload: dict[str, Any]) -> str:
        try:
            torch.save(payload, self.folder / "payload.pt")
        except Exception as error:
            return f"the model cannot be pickled: {first_line(error)}"
        return ""

    def _obstacle(self, model: nn.Module) -> str:
        if not self.plan.trainable:
            return "nothing trains"
        if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
            return "this torch has no gloo"
        classes = {type(module).__module__ for module in model.modules()}
        return "its classes are defined in __main__" if "__main__" in classes else ""

    def _start(self, forks: Nursery, rank: int, model: nn.Module) -> Child:
        """Files of a user's model were imported under a name of our own: the process does so too."""
        modules = {type(module).__module__ for module in model.modules()}
        files = [sys.modules[m].__file__ or "" for m in sorted(modules) if m.startswith("inspected_")]
        return forks.child(
            f"{_WORKER}:main",
            [str(self.folder), str(rank), *files],
            self.folder,
            f"rank{rank}",
            environment={"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **loopback()},
            search=list(dict.fromkeys([*(entry or os.getcwd() for entry in sys.path), *_folders(modules)])),
        )

    def wait(self) -> Parallel:
        """Wait for both processes."""
        if self.why_not:
            return Parallel(obstacle=self.why_not)
        end = time.monotonic() + DEADLINE
        if not all(process.wait(end - time.monotonic()) for process in self.processes):
            return Parallel(deadlock=DEADLINE)
        return Parallel([one.answer() or {"stage": "start", "error": one.death()} for one in self.processes])

    def __enter__(self) -> TwoProcesses:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.end()
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)
