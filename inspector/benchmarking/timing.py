"""Clocks, warm-up, and the order in which steps are timed: in rounds, every step in turn."""

from __future__ import annotations

import gc
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Protocol

import numpy as np
import torch
from scipy import special

from inspector.core.collection import paused

AIMED_ROUNDS = 24
"""Number of rounds the time is divided into."""
MOST_CALLS = 1000
"""Of one visit; the GPU's queue of launched work is about as long."""
OVERTIME = 4
"""At this multiple of its seconds a measurement stops, however few its rounds."""
L2_UNKNOWN = 256 * 2**20
"""Bytes written between calls where the size of the L2 cache is unknown."""
STABLE = 0.05
"""Windows of the warm-up whose medians are nearer than this, relatively, are alike."""
MOST_IN_WINDOW = 500


@dataclass(frozen=True)
class Visit:
    """Consecutive calls of one step; all in seconds.

    `samples` are the measured calls, `host` is the wall time around them including the last synchronise,
    `device` the GPU's time from the first start to the last end (None on the CPU). `unmeasured` counts the
    calls before them that nobody timed.
    """

    samples: tuple[float, ...]
    host: float
    device: float | None
    unmeasured: int = 1

    @property
    def calls(self) -> int:
        """How often the step ran."""
        return len(self.samples) + self.unmeasured


class Visitor(Protocol):
    """Calls a step once unmeasured, then `count` times measured."""

    def visit(self, step: Callable[[], Any], count: int) -> Visit: ...


class Clock(Visitor, Protocol):
    """A visitor that can also time one call alone: host seconds until all its work is done."""

    def once(self, step: Callable[[], Any]) -> float: ...


class StepError(Exception):
    """The step `name` raised `cause` while it was timed."""

    def __init__(self, name: str, cause: Exception) -> None:
        super().__init__(f"{name}: {type(cause).__name__}: {cause}")
        self.name, self.cause = name, cause


class HostClock:
    """Times work on the host: the CPU's, done when the call returns, or that of a device which `wait` waits
    for after each call."""

    def __init__(
        self, now: Callable[[], float] = time.perf_counter, wait: Callable[[], Any] = lambda: None
    ) -> None:
        self.now, self.wait = now, wait

    def once(self, step: Callable[[], Any]) -> float:
        self.wait()
        start = self.now()
        step()
        self.wait()
        return self.now() - start

    def visit(self, step: Callable[[], Any], count: int) -> Visit:
        with paused():
            step()
            self.wait()
            begin = self.now()
            samples = tuple(self.once(step) for _ in range(count))
            return Visit(samples, self.now() - begin, None)


class EventClock:
    """Times work on a CUDA device by a pair of events around every call, with a cold L2 cache.

    Between calls a buffer twice as large as the L2 cache is zeroed, outside of the events; it is allocated
    when the clock is made. `cuda` stands for torch.cuda, `flush` for the zeroing, `now` is in seconds.
    """

    def __init__(
        self,
        device: str | torch.device,
        cuda: Any = torch.cuda,
        flush: Callable[[], Any] | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device, self.cuda, self.now = torch.device(device), cuda, now
        self.flush = (
            flush or torch.empty(flush_bytes(self.device, cuda), dtype=torch.uint8, device=device).zero_
        )

    def once(self, step: Callable[[], Any]) -> float:
        self.cuda.synchronize(self.device)
        start = self.now()
        step()
        self.cuda.synchronize(self.device)
        return self.now() - start

    def visit(self, step: Callable[[], Any], count: int) -> Visit:
        events = [
            (self.cuda.Event(enable_timing=True), self.cuda.Event(enable_timing=True)) for _ in range(count)
        ]
        stream = self.cuda.current_stream(self.device)
        with paused():
            step()
            self.cuda.synchronize(self.device)
            begin = self.now()
            for start, end in events:
                self.flush()
                start.record(stream)
                step()
                end.record(stream)
            self.cuda.synchronize(self.device)
            host = self.now() - begin
        samples = tuple(start.elapsed_time(end) / 1e3 for start, end in events)
        return Visit(samples, host, events[0][0].elapsed_time(events[-1][1]) / 1e3)


def clock_of(device: str) -> Clock:
    """Events on CUDA; the host's clock elsewhere, which waits for an accelerator."""
    if device.startswith("cuda"):
        return EventClock(device)
    if device == "cpu":
        return HostClock()
    return HostClock(wait=partial(torch.accelerator.synchronize, torch.device(device)))


def flush_bytes(device: torch.device, cuda: Any = torch.cuda) -> int:
    """Bytes to write between calls so that nothing of the last call is left in the L2 cache."""
    size = int(getattr(cuda.get_device_properties(device), "L2_cache_size", 0) or 0)
    return 2 * size if size else L2_UNKNOWN


def synchronised(visits: Iterable[Visit]) -> bool:
    """Whether the host waited for the GPU in every visit: 2% are left for the rates of the two clocks."""
    return all(visit.device is None or visit.host >= 0.98 * visit.device for visit in visits)


@dataclass(frozen=True)
class WarmUp:
    """How a step was warmed up: its calls, their seconds in all, and those of the very first call (where
    compilation shows). `stable` says whether the time per call had settled."""

    calls: int
    seconds: float
    first: float
    stable: bool


def warm_up(step: Callable[[], Any], clock: Clock, *, least: int = 3, limit_s: float) -> WarmUp:
    """Call the step until two successive windows of calls take the same time, within 5% of their medians.

    A window is of 0.2 s, less where `limit_s` is short. At `limit_s` seconds after the first call it ends,
    but never before `least` calls.
    """
    first = clock.once(step)
    times: list[float] = []
    span = min(0.2, limit_s / 20)
    width, before = 1, math.nan
    while True:
        window: list[float] = []
        while len(window) < width:
            if sum(times) >= limit_s and len(times) + 1 >= least:
                return WarmUp(len(times) + 1, first + sum(times), first, False)
            window.append(clock.once(step))
            times.append(window[-1])
        now = median(window)
        if abs(now - before) <= STABLE * before and len(times) + 1 >= least:
            return WarmUp(len(times) + 1, first + sum(times), first, True)
        wanted = min(max(math.ceil(span / now) if now > 0 else MOST_IN_WINDOW, 1), MOST_IN_WINDOW)
        before = now if wanted <= 2 * width else math.nan
        width = max(wanted, width)


def interleave(
    steps: Mapping[str, Callable[[], Any]],
    clock: Visitor,
    *,
    rounds_min: int = 8,
    rounds_max: int = 200,
    target: float = 0.01,
    seconds: float,
    progress: Callable[[float], None] = lambda share: None,
    into: dict[str, list[Visit]],
    now: Callable[[], float] = time.perf_counter,
) -> None:
    """Time the steps in rounds, every step in order and then in reverse, so that a drift of the device
    affects all alike. A step's two visits of a round are one `Visit` in `into`, which holds whole rounds
    only, equally many for every step, also after an exception.

    The calls of a visit are such that every step gets about the same time. It ends when `seconds` have
    passed, or earlier when the 95% half-width of every step's median is under `target` of it, but not before
    `rounds_min` rounds unless it takes 4 times its seconds; and at `rounds_max`. Raises StepError.
    """
    if not steps:
        return
    visited = [into.setdefault(name, []) for name in steps]
    plan = _Plan(steps, clock, seconds / AIMED_ROUNDS / (2 * len(steps)), now)
    begin, rounds = now(), 0

    def tell(part: float) -> None:
        progress(min(1.0, (now() - begin) / seconds if seconds > 0 else 1.0, (rounds + part) / rounds_min))

    try:
        while True:
            whole = plan.round(tell)
            for visits, visit in zip(visited, whole):
                visits.append(visit)
            rounds += 1
            spent = now() - begin
            if rounds >= rounds_max or spent > OVERTIME * seconds:
                break
            if rounds >= rounds_min and (spent >= seconds or all(_known(v, target) for v in visited)):
                break
    finally:
        shortest = min(map(len, visited))
        for visits in visited:
            del visits[shortest:]
    progress(1.0)


class _Plan:
    """Runs rounds, and fits the calls of each step's visits to `share` seconds."""

    def __init__(
        self, steps: Mapping[str, Callable[[], Any]], clock: Visitor, share: float, now: Callable[[], float]
    ) -> None:
        self.steps, self.clock, self.share, self.now = steps, clock, share, now
        self.cost = dict.fromkeys(steps, math.inf)
        self.pilot = True

    def round(self, tell: Callable[[float], None]) -> list[Visit]:
        """One round: each step's two visits, merged."""
        there = self._pass(list(self.steps), tell, 0.0)
        if self.pilot:
            self.pilot = False
            if any(
                self._count(name) > 1 for name in self.steps
            ):  # one call each was only to learn their cost
                pilot, there = there, self._pass(list(self.steps), tell, 0.0)
                there = {n: replace(v, unmeasured=v.unmeasured + pilot[n].calls) for n, v in there.items()}
        back = self._pass(list(self.steps)[::-1], tell, 0.5)
        return [_merged(there[name], back[name]) for name in self.steps]

    def _pass(self, names: list[str], tell: Callable[[float], None], part: float) -> dict[str, Visit]:
        counts = {name: self._count(name) for name in names}
        visits = {}
        for number, name in enumerate(names):
            gc.collect(1)
            start = self.now()
            try:
                visits[name] = self.clock.visit(self.steps[name], counts[name])
            except Exception as error:
                traceback.clear_frames(error.__traceback__)  # they would keep a failed step's tensors alive
                raise StepError(name, error) from error
            self.cost[name] = min(self.cost[name], (self.now() - start) / visits[name].calls)
            tell(part + (number + 1) / len(names) / 2)
        return visits

    def _count(self, name: str) -> int:
        """Measured calls of a visit: one while the cost is unknown."""
        cost = self.cost[name]
        if cost <= 0:
            return MOST_CALLS
        return min(max(int(self.share / cost) - 1, 1), MOST_CALLS)


def _merged(one: Visit, two: Visit) -> Visit:
    device = None if one.device is None or two.device is None else one.device + two.device
    return Visit(one.samples + two.samples, one.host + two.host, device, one.unmeasured + two.unmeasured)


def _known(visits: list[Visit], target: float) -> bool:
    """Whether the 95% half-width of the mean of the rounds' medians is under `target` of it."""
    medians = np.array([median(visit.samples) for visit in visits])
    if len(medians) < 2:
        return False
    reach = float(special.stdtrit(len(medians) - 1, 0.975)) / len(medians) ** 0.5
    return bool(reach * medians.std(ddof=1) <= target * medians.mean())
