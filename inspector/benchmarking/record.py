"""What the benchmark records about one row, and the rows that can be compared with each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from inspector.benchmarking.precisions import Precision

if TYPE_CHECKING:
    from inspector.benchmarking.drift import Drift
    from inspector.benchmarking.gpu import GpuState
    from inspector.benchmarking.probe import Probe
    from inspector.benchmarking.stats import Interval
    from inspector.benchmarking.timing import Visit, WarmUp
    from inspector.benchmarking.watch import Watched


@dataclass
class Row:
    """One precision at one batch in one mode ("infer" or "train"). Seconds are of one step, memory is in
    bytes over what the device held before; `in_fp8` counts Linear layers, those in FP8 and all. None is what
    was not measured, with the reason in `absent`."""

    precision: Precision
    mode: str
    batch: int
    absent: str = ""
    probe: Probe | None = None
    leaked: list[str] = field(default_factory=list)
    watched: Watched | None = None
    warm: WarmUp | None = None
    visits: list[Visit] = field(default_factory=list)
    latency: float | None = None
    interval: Interval | None = None
    p95: float | None = None
    p99: float | None = None
    speedup: float | None = None
    speedup_interval: Interval | None = None
    allocated: int | None = None
    reserved: int | None = None
    macs: int | None = None
    tflops: float | None = None
    fraction: float | None = None
    rejected: float | None = None
    steps: int = 0
    skipped: int = 0
    drift: Drift | None = None
    no_drift: str = ""
    in_fp8: tuple[int, int] | None = None
    before: GpuState | None = None
    after: GpuState | None = None
    joules: float | None = None

    @property
    def name(self) -> str:
        return f"{self.mode}/{self.batch}/{self.precision.name}"

    @property
    def rate(self) -> float | None:
        """Samples a second."""
        return self.batch / self.latency if self.latency else None


@dataclass
class Group:
    """The rows of one mode and batch: measured in turn, in one process, and compared with the first."""

    mode: str
    batch: int
    rows: list[Row]

    @property
    def base(self) -> Row:
        """What speed-ups are relative to: the first row, present or not."""
        return self.rows[0]
