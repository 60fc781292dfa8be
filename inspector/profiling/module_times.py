"""How long each module's own work takes in a forward, on this machine.

The time line of a forward is cut at every entry and exit of a module; each piece belongs to the innermost
module that runs. So the pieces of all modules add up to the whole forward, and nothing counts twice.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from inspector.benchmarking.stats import median

WARM_UP = 3
"""Forwards before the first that counts, fewer where they take long."""
LEAST_RUNS, MOST_RUNS = 5, 100
SECONDS = 5.0
"""Time budget; the least runs are made also where they take longer."""


@dataclass(frozen=True)
class ModuleTimes:
    """Seconds of each module's own work (path "" is the model), of one whole forward: the marked run whose
    total is the median of `runs`. `bare` is the median of as many forwards without marks, run in turn."""

    own: Mapping[str, float]
    total: float
    bare: float
    runs: int


def module_times(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    device: str = "cpu",
    seconds: float = SECONDS,
) -> ModuleTimes:
    """Run `model` (on `device`, in the mode that is to be timed) without gradients, marked and bare in turn.

    On a CUDA device the marks are events in its stream: they see the GPU's time, its waiting included.
    """
    marks = _Events(device) if device.startswith("cuda") else _HostMarks()
    paths = {id(module): path for path, module in model.named_modules()}
    found: list[dict[str, float]] = []
    bare: list[float] = []

    def run() -> None:
        model(*args, **kwargs)

    with torch.no_grad():
        start = time.perf_counter()
        for _ in range(WARM_UP):
            run()
            if time.perf_counter() - start > seconds / 2:
                break
        deadline = time.perf_counter() + seconds
        while len(found) < LEAST_RUNS or (len(found) < MOST_RUNS and time.perf_counter() < deadline):
            found.append(_marked(run, paths, marks))
            bare.append(sum(_marked(run, {}, marks).values()))
    totals = [sum(own.values()) for own in found]
    middle = sorted(range(len(found)), key=totals.__getitem__)[(len(found) - 1) // 2]
    return ModuleTimes(found[middle], totals[middle], median(bare), len(found))


def _marked(run: Callable[[], None], paths: Mapping[int, str], marks: _Marks) -> dict[str, float]:
    """Seconds of own work by path, of one run; with no paths all is the model's."""
    line: list[tuple[str, Any]] = []
    marks.begin()
    with _entries(paths, lambda path: line.append((path, marks.now()))):
        line.append(("", marks.now()))
        run()
        line.append(("", marks.now()))
    marks.end()
    own: dict[str, float] = defaultdict(float)
    for (path, start), (_, stop) in pairwise(line):
        own[path] += marks.between(start, stop)
    return dict(own)


@contextmanager
def _entries(paths: Mapping[int, str], note: Callable[[str], None]) -> Iterator[None]:
    """Tell the path of the module that runs from now on, at every entry and exit of one of `paths`.

    `nn.Module.__call__` is wrapped instead of hooks registered: with hooks on it, a transformer layer
    leaves its fast path.
    """
    if not paths:
        yield
        return
    call = nn.Module.__call__
    running = [""]

    def marked(module: Any, *args: Any, **kwargs: Any) -> Any:
        path = paths.get(id(module))
        if path is None:
            return call(module, *args, **kwargs)
        running.append(path)
        note(path)
        try:
            return call(module, *args, **kwargs)
        finally:
            running.pop()
            note(running[-1])

    nn.Module.__call__ = marked  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        nn.Module.__call__ = call  # type: ignore[method-assign]


class _HostMarks:
    """Work is done when the call returns: the CPU's."""

    def begin(self) -> None: ...

    def now(self) -> float:
        return time.perf_counter()

    def end(self) -> None: ...

    def between(self, start: float, stop: float) -> float:
        return stop - start


class _Events:
    """Marks in the stream of a CUDA device."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)

    def begin(self) -> None:
        torch.cuda.synchronize(self.device)

    def now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def end(self) -> None:
        torch.cuda.synchronize(self.device)

    def between(self, start: Any, stop: Any) -> float:
        return float(start.elapsed_time(stop)) / 1e3


_Marks = _HostMarks | _Events
