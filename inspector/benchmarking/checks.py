"""Whether the numbers of a benchmark can be trusted."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from inspector.benchmarking.record import Group, Row
from inspector.benchmarking.stats import claimed
from inspector.benchmarking.timing import synchronised
from inspector.reporting.checks import check, checks_in, failed, note, passed, skipped, warned
from inspector.reporting.report import Finding

IEEE_ERROR = 1e-5
"""Relative L2 error of a float32 product above which inputs were rounded: unit roundoff is 2**-24 for
float32 and 2**-11 for TF32; see `inspector.benchmarking.probe`."""

BEYOND = 2.25
"""Products that F(2x2, 3x3) saves, the form of Winograd's algorithm that libraries use most: 36 for 16 (Lavin
and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1)."""


@dataclass(frozen=True)
class Case:
    """The rows of one mode and batch; `strict` makes an overflow fail."""

    group: Group
    strict: bool = False

    @property
    def rows(self) -> list[Row]:
        """Those that were measured."""
        return [row for row in self.group.rows if not row.absent]

    def passed(self, message: str) -> list[Finding]:
        """A pass of the whole group; nothing when no row was measured."""
        return [passed(message, f"{self.group.mode}/{self.group.batch}")] if self.rows else []


@note
def absent(case: Case) -> Iterator[Finding]:
    """Says why a row could not be measured."""
    for row in case.group.rows:
        if row.absent:
            yield skipped(row.absent, row.name)


@check
def effective_precision(case: Case) -> list[Finding]:
    """An FP32 row ran in IEEE float32, and the model changed no precision flag.

    Measured, not read from flags: one product and one convolution against float64. A TF32 row in which
    nothing was rounded warns.
    """
    findings = [finding for row in case.rows for finding in _precision(row)]
    return findings or case.passed("float32 rows ran in IEEE float32 (probed), no flag changed")


def _precision(row: Row) -> Iterator[Finding]:
    if row.probe is not None:
        error = max(row.probe.matmul, row.probe.conv)
        ieee = row.precision.flags == "ieee" and row.precision.peak == "fp32"
        if ieee and not error < IEEE_ERROR:
            message = f"this row did not run in IEEE float32: {row.probe.described()}"
            yield failed(message, row.name, **vars(row.probe))
        if row.precision.flags == "tf32" and error < IEEE_ERROR:
            message = f"nothing was rounded to TF32: this row ran in FP32: {row.probe.described()}"
            yield warned(message, row.name, **vars(row.probe))
    if row.leaked:
        message = f"a precision flag was changed while the row ran: {', '.join(row.leaked)}"
        yield failed(message, row.name, flags=row.leaked)


@check
def synchronise(case: Case) -> Iterator[Finding]:
    """The clock on the host did not stop before the GPU's work was done."""
    for row in case.rows:
        if row.visits and not synchronised(row.visits):
            host = sum(visit.host for visit in row.visits)
            device = sum(visit.device or 0.0 for visit in row.visits)
            times = f"{host:.4g} s on the host, {device:.4g} s on the GPU"
            message = f"the clock stopped before the work was done: {times}"
            yield failed(message, row.name, host=host, device=device)


@check
def same_batch(case: Case) -> list[Finding]:
    """Every row got the same samples as the first."""
    watched = [(row, row.watched) for row in case.rows if row.watched is not None]
    findings = []
    for row, inputs in watched[1:]:
        first, reference = watched[0]
        if inputs.inputs != reference.inputs:
            shapes = f"{_shapes(inputs.inputs)}, {first.precision.name} {_shapes(reference.inputs)}"
            findings.append(failed(f"its inputs are {shapes}", row.name))
        elif not all(_alike(a, b) for a, b in zip(inputs.sums, reference.sums)):
            findings.append(failed(f"its input values differ from {first.precision.name}'s", row.name))
    return findings or case.passed("all rows got the same samples")


@check
def mode(case: Case) -> list[Finding]:
    """In inference every module was in eval mode; in training the model was in train mode."""
    findings = []
    for row in case.rows:
        wrong = row.watched.wrong_mode if row.watched is not None else []
        if wrong:
            names = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            other = "train" if row.mode == "infer" else "eval"
            findings.append(failed(f"in {other} mode while it was measured: {names}", row.name))
    return findings or case.passed("every module was in the row's mode")


@check
def transfer(case: Case) -> list[Finding]:
    """Inputs were on the device before the clock started.

    Copies that the model itself makes are only a warning.
    """
    findings = []
    for row in case.rows:
        copies = row.watched.transfers if row.watched is not None else []
        outside = [entry for entry in copies if entry[3] is None]
        inside = [entry for entry in copies if entry[3] is not None]
        for make, entries in ((failed, outside), (warned, inside)):
            if entries:
                nbytes, source, target, place = max(entries, key=lambda entry: entry[0])
                where = "the timed step" if place is None else f"the model ({place or 'its forward'})"
                message = (
                    f"{where} copies {sum(e[0] for e in entries):,} bytes between devices inside the timed"
                    f" region; the largest copy is {nbytes:,} bytes from {source} to {target}"
                )
                findings.append(make(message, row.name))
    return findings or case.passed("nothing moved between devices while the clock ran")


@check
def peak(case: Case) -> Iterator[Finding]:
    """No row is faster than the device's peak allows: else the time, the count or the peak is wrong.

    Only for devices in the table. Up to 2.25 times the peak only warns: Winograd's algorithm needs that
    many fewer products, and clocks are boosted above those of the data sheet.
    """
    for row in case.rows:
        if row.rejected is not None:
            message = (
                f"{row.rejected:.0%} of the device's peak: the time, the count or the peak is wrong, or an"
                " algorithm like Winograd's needs fewer products than are counted; no TFLOP/s are given"
            )
            make = warned if row.rejected <= BEYOND else failed
            yield make(message, row.name, fraction=row.rejected)


@check
def overflow(case: Case) -> Iterator[Finding]:
    """(`--strict`; else a warning) No value that is finite in float64 becomes NaN or infinite here.

    Names the layer where one first appears.
    """
    for row in case.rows:
        if row.drift is not None and row.drift.first_bad is not None:
            inner = next(m for m in row.drift.modules if m.module == row.drift.first_bad)
            reached = "" if inner.max_abs is None else f"; in float64 it reaches {inner.max_abs:.3g}"
            message = (
                f"first NaN or infinity in {row.drift.first_bad} ({row.drift.first_bad_type}):"
                f" {inner.nans:,} NaN, {inner.infs:,} infinite{reached}"
            )
            make = failed if case.strict else warned
            yield make(message, row.name, module=row.drift.first_bad, nans=inner.nans, infs=inner.infs)


@check
def grad_scaler(case: Case) -> Iterator[Finding]:
    """GradScaler did not skip every step: a skipped step trains nothing, and takes less time."""
    for row in case.rows:
        if not row.precision.scaler or row.mode != "train" or not row.steps:
            continue
        message = f"GradScaler skipped {row.skipped} of {row.steps} steps"
        make, more = passed, ""
        if row.skipped >= row.steps:
            make, more = failed, ": nothing was trained"
        elif row.skipped:
            make, more = warned, ", while it searched for its scale"
        yield make(message + more, row.name, skipped=row.skipped, steps=row.steps)


@note
def fastest(case: Case) -> Iterator[Finding]:
    """Names the fastest row with its drift, where it is faster than the first beyond doubt."""
    faster = [row for row in case.rows if row.speedup and row.speedup > 1 and claimed(row.speedup_interval)]
    if faster:
        row = max(faster, key=lambda row: row.speedup or 0.0)
        known = row.drift is not None and row.drift.rel_l2 is not None
        drift = f"a drift of {row.drift.rel_l2:.1e}" if known and row.drift else "an unknown drift"
        base = case.group.base.precision.label
        yield passed(f"{row.precision.label} is the fastest: {row.speedup:.2f}x {base} at {drift}", row.name)


@note
def steady(case: Case) -> Iterator[Finding]:
    """Warns of times that had not settled when the measurement began, and of a loss that is not finite."""
    for row in case.rows:
        if row.warm is not None and not row.warm.stable:
            yield warned(f"not stable after {row.warm.calls} warm-up steps", row.name)
        if row.watched is not None and row.watched.loss_finite is False:
            yield warned("the loss is not finite while it is timed", row.name)


@note
def drift(case: Case) -> Iterator[Finding]:
    """Says why a drift could not be measured."""
    for row in case.rows:
        reason = row.no_drift or (row.drift.reason if row.drift is not None else "")
        if reason:
            yield skipped(f"unknown: {reason}", row.name)


CHECKS = checks_in(sys.modules[__name__])


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes) or "nothing"


def _alike(a: float, b: float) -> bool:
    """Fingerprints of the same values, one of them perhaps rounded to bfloat16 (see watch)."""
    return abs(a - b) < 0.05 or (math.isnan(a) and math.isnan(b))
