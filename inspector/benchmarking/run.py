"""The benchmark: prepare every row, measure them in turn, and put the numbers into their rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import nn

from inspector.benchmarking import fp8, gpu, steps
from inspector.benchmarking.numerics import Numerics
from inspector.benchmarking.precisions import Precision, unavailable
from inspector.benchmarking.probe import probe
from inspector.benchmarking.record import Group, Row
from inspector.benchmarking.stats import median_interval, percentile, ratio_interval
from inspector.benchmarking.timing import Clock, StepError, Visit, clock_of, interleave, warm_up
from inspector.benchmarking.watch import watch
from inspector.core.errors import InspectError, first_line
from inspector.core.log import logger
from inspector.models.build import out_of_memory
from inspector.models.determinate import cast
from inspector.models.device import has_float64
from inspector.models.inputs import Inputs, materialise
from inspector.models.replica import replica
from inspector.profiling import flags
from inspector.profiling.meter import counters, metered
from inspector.tracing.capture.isolate import random_state, seed_all

DRIFT_BATCH = 8
"""The most samples of the run in float64: it keeps what every module gives, eight bytes a value."""


@dataclass(frozen=True)
class Options:
    """How to measure. `seconds` is the time budget of one group of rows (a mode at a batch)."""

    device: str = "cpu"
    seconds: float = 20.0
    seed: int = 0


@dataclass
class Bench:
    """The measurement of one model; `groups` holds what has been measured so far, also after an interrupt.

    `model` is on the CPU and stays untouched; `inputs(batch)` gives what it runs on, `macs(mode, batch)`
    what one step of it computes (None: unknown), `peaks` the TFLOP/s of the device by column.
    """

    model: nn.Module
    inputs: Callable[[int], Inputs]
    macs: Callable[[str, int], int | None]
    peaks: dict[str, float]
    options: Options
    groups: list[Group] = field(default_factory=list)
    tell: Callable[[str, float], None] = lambda what, share: None

    def run(self, precisions: Sequence[Precision], modes: Sequence[str], batches: Sequence[int]) -> None:
        """Measure every mode at every batch."""
        programs = sum("compile" in row.switches for row in precisions) * len(modes) * (len(batches) + 1)
        with random_state(), steps.room_for(programs):
            for mode in modes:
                drifts = self._drifts(precisions, mode, min(DRIFT_BATCH, *batches))
                for batch in batches:
                    self._group(precisions, mode, batch, drifts)

    def _unavailable(self, precision: Precision, mode: str) -> str:
        """Why the device or the model cannot run it in a mode, or "" when they can."""
        why = unavailable(precision, self.options.device)
        return why or (fp8.unfit(self.model, mode) if precision.fp8 else "")

    def _drifts(self, precisions: Sequence[Precision], mode: str, batch: int) -> dict[tuple[str, ...], Any]:
        """The drift of each computation, or why there is none."""
        self.tell(f"{mode}: float64 reference", 0.0)
        device = self.options.device
        if not has_float64(device):
            return {precision.computation: f"{device} has no float64" for precision in precisions}
        args, kwargs = materialise(self.inputs(batch), self.model, device, self.options.seed)
        try:
            live = replica(self.model).to(device)
            truth = Numerics.make(live, args, kwargs, mode)
        except torch.OutOfMemoryError:
            return {precision.computation: "out of memory" for precision in precisions}
        drifts: dict[tuple[str, ...], Any] = {}
        for number, precision in enumerate(precisions):
            self.tell(f"{mode}: drift of {precision.name}", number / len(precisions))
            if precision.computation not in drifts:
                drifts[precision.computation] = self._unavailable(precision, mode) or truth.drift(precision)
        return drifts

    def _group(
        self,
        precisions: Sequence[Precision],
        mode: str,
        batch: int,
        drifts: dict[tuple[str, ...], Any],
    ) -> None:
        group = Group(mode, batch, [Row(precision, mode, batch) for precision in precisions])
        self.groups.append(group)
        ready: dict[str, tuple[Row, steps.Step]] = {}
        for row in group.rows:
            drift = drifts[row.precision.computation]
            row.drift, row.no_drift = (None, drift) if isinstance(drift, str) else (drift, "")
            row.absent = self._unavailable(row.precision, mode)
            if not row.absent:
                self.tell(f"{row.name}: warm-up", 0.0)
                prepared = self._prepared(row)
                if prepared is not None:
                    ready[row.precision.name] = (row, prepared)
        self._measure(group, ready)

    def _prepared(self, row: Row) -> steps.Step | None:
        """The row's step, warm, observed, with its memory measured; None and a reason where it fails."""
        try:
            with flags.precision(row.precision.flags):
                return self._prepare(row)
        except InspectError:
            raise
        except Exception as error:
            logger.info("%s: %r", row.name, error)
            row.absent = _reason(error)
            _release()
            return None

    def _prepare(self, row: Row) -> steps.Step:
        device, options, clock = self.options.device, self.options, self.clock
        row.probe = probe(device, row.precision.weights, row.precision.autocast)
        with _memory(device, row):
            step = self.step(row.precision, row.mode, row.batch)
            row.in_fp8 = fp8.counted(step.model) if row.precision.fp8 else None
            seed_all(options.seed)
            held = flags.read()
            row.watched = watch(step)
            row.leaked = flags.leaked(held, row.precision.flags)
            _forget_peak(device)  # watching takes memory of its own
            if "compile" in row.precision.switches:
                steps.compiled(step)
            row.warm = warm_up(step, clock, least=3, limit_s=options.seconds)
            if "cuda_graph" in row.precision.switches:
                steps.graphed(step, self.pool)
                again = warm_up(step, clock, least=3, limit_s=options.seconds)
                row.warm = replace(again, first=row.warm.first)  # where compilation shows
        row.steps = row.warm.calls + 1
        return step

    def step(self, precision: Precision, mode: str, batch: int) -> steps.Step:
        """One precision's step on the device: a copy of the model, cast, in its mode."""
        options = self.options
        model = replica(self.model).to(options.device)
        args, kwargs = materialise(self.inputs(batch), self.model, options.device, options.seed)
        if precision.weights is not torch.float32:
            model, (args, kwargs) = model.to(precision.weights), cast((args, kwargs), precision.weights)
        model, (args, kwargs) = steps.arranged(model, (args, kwargs), precision)
        model.train(mode == "train")
        return steps.make(model, args, kwargs, precision, options.device, mode)

    @cached_property
    def clock(self) -> Clock:
        """One for all rows: on a GPU it holds a buffer, which must not count as memory of a step."""
        return clock_of(self.options.device)

    @cached_property
    def pool(self) -> Any:
        """The memory that the graphs of all rows share: they never run at the same time."""
        return torch.cuda.graph_pool_handle()

    def _measure(self, group: Group, ready: dict[str, tuple[Row, steps.Step]]) -> None:
        """Time the rows in turn. A row that runs out of memory becomes absent, and the others go on."""
        visits: dict[str, list[Visit]] = {}
        while ready:
            visits = {}
            clock = _Around(self.clock, {id(step): row for row, step in ready.values()})
            work = {name: step for name, (row, step) in ready.items()}
            for row, _ in ready.values():
                row.before = _gpu_state(self.options.device)
            try:
                interleave(
                    work,
                    clock,
                    seconds=self.options.seconds,
                    progress=lambda share: self.tell(f"{group.mode}, batch {group.batch}", share),
                    into=visits,
                )
            except StepError as error:
                row, _ = ready.pop(error.name)
                beside = f" with {len(ready)} other rows in memory" if ready else ""
                row.absent = _reason(error.cause) + beside
                _release()
                continue
            finally:
                self._note(group, ready, visits)
            break
        for row, step in ready.values():
            row.after = _gpu_state(self.options.device)  # before energy heats the card up
            row.skipped = step.skipped()
        for row, step in ready.values():
            if self.options.device.startswith("cuda"):
                with flags.precision(row.precision.flags):
                    energy = gpu.joules(
                        step, gpu.ENERGY_SECONDS, torch.device(self.options.device).index or 0
                    )
                row.joules = energy[0] / energy[1] / row.batch if energy else None

    def _note(
        self, group: Group, ready: dict[str, tuple[Row, steps.Step]], visits: dict[str, list[Visit]]
    ) -> None:
        """The numbers of the rounds that were completed."""
        for name, (row, step) in ready.items():
            row.visits = visits.get(name, [])
            if not row.visits:
                continue
            row.steps += sum(len(visit.samples) + 1 for visit in row.visits)
            samples = [sample for visit in row.visits for sample in visit.samples]
            row.latency = median(samples)
            row.interval = median_interval([visit.samples for visit in row.visits], self.options.seed)
            row.p95 = percentile(samples, 95) if len(samples) >= 20 else None
            row.p99 = percentile(samples, 99) if len(samples) >= 100 else None
            self._rate(row)
        for row in group.rows[1:]:
            if row.visits and group.base.visits:
                base = [median(visit.samples) for visit in group.base.visits]
                other = [median(visit.samples) for visit in row.visits]
                row.speedup, row.speedup_interval = ratio_interval(base, other, self.options.seed)

    def _rate(self, row: Row) -> None:
        row.macs = self.macs(row.mode, row.batch)
        if row.macs is None or not row.latency:
            return
        row.tflops = 2 * row.macs / row.latency / 1e12
        peak = self.peaks.get(row.precision.peak)
        fraction = row.tflops / peak if peak else None
        if fraction is not None and fraction > 1:
            row.rejected, row.tflops = fraction, None
        else:
            row.fraction = fraction


class _Around:
    """A clock that sets each row's precision flags around its visits, never inside them."""

    def __init__(self, clock: Clock, rows: dict[int, Row]) -> None:
        self.clock, self.rows = clock, rows

    def visit(self, step: Any, count: int) -> Visit:
        row = self.rows[id(step)]
        with flags.precision(row.precision.flags):
            held = flags.read()
            visit = self.clock.visit(step, count)
            row.leaked = row.leaked or flags.leaked(held, row.precision.flags)
        return visit


@contextmanager
def _memory(device: str, row: Row) -> Iterator[None]:
    """Peak bytes over what was there before: other rows keep their weights on the device meanwhile."""
    memory = counters(device)
    if memory is None:
        yield
        return
    memory.synchronize(device)
    memory.empty_cache()
    with metered(device) as peak:
        yield
    row.allocated, row.reserved = peak.tensors, peak.reserved


def _forget_peak(device: str) -> None:
    memory = counters(device)
    if memory is not None:
        memory.synchronize(device)
        memory.reset_peak_memory_stats(device)


def _release() -> None:
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _reason(error: BaseException) -> str:
    if out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {first_line(error)}"


def _gpu_state(device: str) -> Any:
    return gpu.state(torch.device(device).index or 0) if device.startswith("cuda") else None
