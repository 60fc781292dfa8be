"""How long each module takes in a forward, on this machine.

The time line of a forward is cut at every entry and exit of a module; each piece is the own work of the
innermost module that runs. So the own work of all modules adds up to the whole forward, and what lies between
an entry and its exit is the module with everything inside.
"""

from __future__ import annotations

import platform
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.models import Recipe
from inspector.models.device import gpu_name
from inspector.models.inputs import Inputs
from inspector.profiling import flags
from inspector.profiling.live import Live
from inspector.tracing.capture.isolate import random_state
from inspector.tracing.capture.modules import ModuleCall, Places, all_paths, module_calls, places_of
from inspector.tracing.capture.setting import PORTABLE, Setting

WARM_UP = 3
"""Forwards before the first that counts, fewer where they take long."""
LEAST_RUNS, MOST_RUNS = 5, 100
SECONDS = 5.0
"""Time budget; the least runs are made also where they take longer."""


@dataclass(frozen=True)
class ModuleTimes:
    """Seconds of one forward by module (path "" is the model): `own` is a module's own work, `inside` all of
    its calls with everything inside. It is the marked run whose total is the median of `runs`. `bare` is the
    median of as many forwards without marks, run in turn. `spans` are the calls of that run in the order in
    which they began: path, how many calls are around it, and when it began and ended, in seconds."""

    own: Mapping[str, float]
    inside: Mapping[str, float]
    total: float
    bare: float
    runs: int
    spans: tuple[tuple[str, int, float, float], ...] = ()


def check(phase: str, only_trace: bool) -> None:
    """Raise InspectError for what cannot be timed, before any work."""
    if phase != "forward":
        raise InspectError("timing measures a forward", "leave phase='train' out, or see: inspect bench")
    if only_trace:
        raise InspectError("a trace alone cannot be timed", "pass the model")


def measure(
    recipe: Recipe,
    inputs: Inputs | None,
    device: str,
    seed: int,
    setting: Setting = PORTABLE,
    seconds: float = SECONDS,
    precision: str = "ieee",
) -> ModuleTimes:
    """The times of a copy of the model in eval mode, without gradients; float32 products round as
    `precision` says ("ieee", "tf32"). Raises InspectError for whatever the model's forward raises."""
    with random_state(), flags.precision(precision):
        try:
            live = Live.make(recipe, inputs, device, seed, setting)
            return module_times(live.model, live, device, seconds)
        except InspectError:
            raise
        except Exception as error:
            raise InspectError(
                f"{type(error).__name__}: {first_line(error)}", "see `error.__cause__`"
            ) from error


def place(device: str, precision: str = "ieee") -> str:
    """The machine that was measured, by name; of a GPU also how it rounded float32 products."""
    gpu = gpu_name(device)
    if gpu is not None and not device.startswith("cuda"):
        return f"{gpu}, by the host's clock, which waits for it at every mark"
    if gpu is not None:
        return f"{gpu}, float32 products in {_WORDS[precision]}"
    threads = torch.get_num_threads()
    processor = platform.processor() or platform.machine()
    return f"this CPU ({processor}, {threads} thread{'s' if threads > 1 else ''})"


_WORDS = {"ieee": "IEEE float32", "tf32": "TF32"}


def module_times(
    model: nn.Module, forward: Callable[[], Any], device: str = "cpu", seconds: float = SECONDS
) -> ModuleTimes:
    """Run `forward` of `model`, which is on `device`, without gradients, marked and bare in turn.

    On a CUDA device the marks are events in its stream: they measure the GPU's time, including waiting. On
    another accelerator the host waits for it at every mark, which takes time of its own (see `bare`).
    """
    marks = _Events(device) if device.startswith("cuda") else _HostMarks(device)
    places = places_of(all_paths(model))
    marked: list[_Line] = []
    bare: list[float] = []
    with torch.no_grad():
        start = time.perf_counter()
        for _ in range(WARM_UP):
            forward()
            if time.perf_counter() - start > seconds / 2:
                break
        deadline = time.perf_counter() + seconds
        while len(marked) < LEAST_RUNS or (len(marked) < MOST_RUNS and time.perf_counter() < deadline):
            marked.append(_marked(forward, places, marks))
            bare.append(_marked(forward, {}, marks).total)
    middle = sorted(marked, key=lambda line: line.total)[(len(marked) - 1) // 2]
    return ModuleTimes(
        middle.own,
        middle.inside,
        middle.total,
        median(bare),
        len(marked),
        tuple(sorted(middle.spans, key=_begun)),
    )


def _begun(span: tuple[str, int, float, float]) -> tuple[float, int]:
    return span[2], span[1]


class _Line(NamedTuple):
    """Seconds of one run by path; with no paths all is the model's own."""

    own: dict[str, float]
    inside: dict[str, float]
    spans: list[tuple[str, int, float, float]]

    @property
    def total(self) -> float:
        return sum(self.own.values())


def _marked(run: Callable[[], Any], places: Places, marks: _Marks) -> _Line:
    line: list[tuple[str | None, Any]] = []

    def enter(call: ModuleCall) -> None:
        line.append((call.path, marks.now()))

    def leave(_: ModuleCall) -> None:
        line.append((None, marks.now()))

    marks.begin()
    with module_calls(places, enter, leave) if places else nullcontext():
        start = marks.now()
        run()
        line.append((None, marks.now()))
    marks.end()
    own: dict[str, float] = defaultdict(float)
    inside: dict[str, float] = defaultdict(float)
    spans = []
    running, before = [("", start)], start
    for path, mark in line:
        own[running[-1][0]] += marks.between(before, mark)
        if path is not None:
            running.append((path, mark))
        elif len(running) > 1:  # the last mark of all leaves no module
            left, entered = running.pop()
            inside[left] += marks.between(entered, mark)
            spans.append((left, len(running) - 1, marks.between(start, entered), marks.between(start, mark)))
        before = mark
    return _Line(dict(own), dict(inside), spans)


class _HostMarks:
    """Work is done when the call returns, the CPU's, or when the accelerator has been waited for."""

    def __init__(self, device: str) -> None:
        self.device = None if device.startswith("cpu") else torch.device(device)

    def begin(self) -> None: ...

    def now(self) -> float:
        if self.device is not None:
            torch.accelerator.synchronize(self.device)
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
