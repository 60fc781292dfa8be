"""Clocks and rounds with a clock made by hand: no test depends on real time."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from inspector.benchmarking.timing import (
    EventClock,
    HostClock,
    StepError,
    Visit,
    interleave,
    synchronised,
    warm_up,
)  # fmt: skip


class Time:
    """A clock that only steps move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def step(self, seconds: float) -> Any:
        def run() -> None:
            self.now += seconds

        return run


class FakeCuda:
    """A GPU that works when it is waited for: launching takes a tenth of the work's time."""

    def __init__(self, time: Time) -> None:
        self.time, self.busy_until = time, 0.0

    def launch(self, seconds: float) -> None:
        self.time.now += seconds / 10
        self.busy_until = max(self.busy_until, self.time.now) + seconds

    def synchronize(self, device: Any = None) -> None:
        self.time.now = max(self.time.now, self.busy_until)

    def current_stream(self, device: Any) -> FakeCuda:
        return self

    def Event(self, enable_timing: bool) -> Any:
        cuda = self

        class Event:
            def record(self, stream: Any) -> None:
                self.at = max(cuda.busy_until, cuda.time.now)

            def elapsed_time(self, end: Any) -> float:
                return (end.at - self.at) * 1e3

        return Event()


def test_the_host_clock_times_each_call_and_not_the_first() -> None:
    time = Time()
    visit = HostClock(time).visit(time.step(0.25), 3)
    assert visit == Visit((0.25, 0.25, 0.25), 0.75, None)
    assert visit.calls == 4


def test_the_event_clock_times_the_gpu_without_the_flush() -> None:
    time = Time()
    cuda = FakeCuda(time)
    clock = EventClock("cuda", cuda, flush=lambda: cuda.launch(0.5), now=time)
    visit = clock.visit(lambda: cuda.launch(1.0), 4)
    assert visit.samples == pytest.approx([1.0] * 4)
    assert visit.device == pytest.approx(4 * 1.0 + 3 * 0.5)  # from the first start to the last end
    assert visit.host >= visit.device
    assert synchronised([visit])


def test_a_host_that_did_not_wait_is_seen() -> None:
    assert not synchronised([Visit((0.01,) * 10, host=0.002, device=0.1)])
    assert synchronised([Visit((0.01,), host=0.01, device=None)])


def test_warm_up_ends_when_times_settle() -> None:
    time = Time()
    costs = iter([5.0, 2.0, 1.5] + [1.0] * 1000)
    found = warm_up(lambda: time.step(next(costs))(), HostClock(time), limit_s=100.0)
    assert found.first == 5.0
    assert found.stable
    assert found.calls == 5  # 2.0 and 1.5 differ, 1.5 and 1.0 differ, 1.0 and 1.0 agree


def test_warm_up_gives_up_at_its_limit() -> None:
    time = Time()
    cost = [1.0]

    def run() -> None:
        cost[0] *= 1.5
        time.now += cost[0]

    found = warm_up(run, HostClock(time), limit_s=20.0)
    assert not found.stable
    assert found.calls >= 3


def test_rounds_are_palindromes_and_whole() -> None:
    time, order = Time(), []
    steps = {name: lambda name=name: (order.append(name), time.step(1.0)()) for name in ("a", "b", "c")}
    into: dict[str, list[Visit]] = {}
    interleave(steps, HostClock(time), rounds_min=2, rounds_max=2, seconds=1.0, into=into, now=time)
    assert [len(into[name]) for name in "abc"] == [1, 1, 1]  # one round takes over four times its seconds
    assert "".join(order) == "aabbccccbbaa"  # each visit has one call that is not measured
    assert into["a"][0].samples == (1.0, 1.0)


def test_equal_time_for_each_step() -> None:
    time = Time()
    into: dict[str, list[Visit]] = {}
    steps = {"fast": time.step(0.001), "slow": time.step(0.1)}
    interleave(steps, HostClock(time), seconds=50.0, target=-1.0, into=into, now=time)
    spent = {name: sum(sum(v.samples) for v in visits) for name, visits in into.items()}
    assert len(into["fast"]) == len(into["slow"]) >= 8
    assert 0.5 < spent["fast"] / spent["slow"] < 2


def test_it_ends_early_when_medians_are_known() -> None:
    time = Time()
    into: dict[str, list[Visit]] = {}
    interleave({"a": time.step(0.01)}, HostClock(time), seconds=1000.0, into=into, now=time)
    assert len(into["a"]) == 8


def test_an_error_names_its_step_and_leaves_whole_rounds() -> None:
    time, calls = Time(), [0]

    def fails() -> None:
        calls[0] += 1
        time.now += 1.0
        if calls[0] > 40:
            raise RuntimeError("out of memory")

    into: dict[str, list[Visit]] = {}
    with pytest.raises(StepError) as caught:
        interleave(
            {"a": time.step(1.0), "b": fails},
            HostClock(time),
            seconds=1e6,
            into=into,
            now=time,
            rounds_min=500,
        )
    assert caught.value.name == "b"
    assert isinstance(caught.value.cause, RuntimeError)
    assert len(into["a"]) == len(into["b"])


def test_an_interrupt_leaves_whole_rounds_and_the_collector_as_it_was() -> None:
    time, calls = Time(), [0]

    def interrupted() -> None:
        calls[0] += 1
        time.now += 1.0
        if calls[0] > 21:
            raise KeyboardInterrupt

    into: dict[str, list[Visit]] = {}
    with pytest.raises(KeyboardInterrupt):
        interleave(
            {"a": time.step(1.0), "b": interrupted}, HostClock(time), seconds=100.0, into=into, now=time
        )
    assert len(into["a"]) == len(into["b"]) > 0
    assert gc.isenabled()
