"""Whether the numbers mean what they say. One function a check; each has a planted fault in
tests/faults/bench.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from inspector.benchmarking.record import Group, Row
from inspector.benchmarking.timing import synchronised
from inspector.reporting.report import Finding

IEEE_ERROR = 1e-5
"""Relative L2 error of a float32 product above which inputs were rounded: unit roundoff is 2**-24 for
float32 and 2**-11 for TF32; see `inspector.benchmarking.probe`."""


def examine(group: Group, strict: bool = False) -> list[Finding]:
    """Every check on every row that was measured, failures and remarks; one pass where all is well."""
    found: list[Finding] = []
    for check in CHECKS:
        said = list(check(group, strict))
        found += said
        if not any(f.status in ("fail", "warn", "skip") for f in said) and not said:
            sure = _PASSED.get(check)
            if sure and any(not row.absent for row in group.rows):
                found.append(Finding(check.__name__, "pass", _subject(group), sure))
    return found


def present(group: Group) -> list[Row]:
    return [row for row in group.rows if not row.absent]


def effective_precision(group: Group, strict: bool) -> Iterator[Finding]:
    """An IEEE row must be IEEE: measured by a probe, and no flag may have moved while it ran."""
    for row in present(group):
        if row.precision.flags == "ieee" and row.precision.peak == "fp32" and row.probe is not None:
            worst = max(row.probe.matmul, row.probe.conv)
            if not worst < IEEE_ERROR:
                message = f"this row did not run in IEEE float32: {row.probe.described()}"
                yield Finding("effective_precision", "fail", row.name, message, vars(row.probe))
        if row.precision.flags == "tf32" and row.probe is not None:
            if max(row.probe.matmul, row.probe.conv) < IEEE_ERROR:
                message = f"nothing was rounded to TF32, this row is FP32 again: {row.probe.described()}"
                yield Finding("effective_precision", "warn", row.name, message, vars(row.probe))
        if row.leaked:
            message = f"a precision flag was changed while the row ran: {', '.join(row.leaked)}"
            yield Finding("effective_precision", "fail", row.name, message, {"flags": row.leaked})


def synchronise(group: Group, strict: bool) -> Iterator[Finding]:
    """The host's clock cannot have stopped before the GPU had finished."""
    for row in present(group):
        if row.visits and not synchronised(row.visits):
            host = sum(visit.host for visit in row.visits)
            device = sum(visit.device or 0.0 for visit in row.visits)
            message = f"the clock stopped before the work was done: {host:.4g} s on the host, {device:.4g} s"
            message += " on the GPU"
            yield Finding("synchronise", "fail", row.name, message, {"host": host, "device": device})


def same_batch(group: Group, strict: bool) -> Iterator[Finding]:
    """Every row must be given the same samples."""
    seen = [(row, row.watched) for row in present(group) if row.watched is not None]
    for row, watched in seen[1:]:
        first, base = seen[0]
        assert base is not None
        assert watched is not None
        if watched.inputs != base.inputs:
            message = f"it was given {_shapes(watched.inputs)}, {first.precision.name} {_shapes(base.inputs)}"
        elif not all(_alike(a, b) for a, b in zip(watched.sums, base.sums)):
            message = f"it was given other values than {first.precision.name}"
        else:
            continue
        yield Finding("same_batch", "fail", row.name, message)


def mode(group: Group, strict: bool) -> Iterator[Finding]:
    """Inference runs in eval mode, training in train mode."""
    for row in present(group):
        if row.watched is not None and row.watched.wrong_mode:
            wrong = row.watched.wrong_mode
            named = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            other = "train" if row.mode == "infer" else "eval"
            yield Finding("mode", "fail", row.name, f"in {other} mode while it was measured: {named}")


def transfer(group: Group, strict: bool) -> Iterator[Finding]:
    """Inputs must be on the device before the clock starts; what the model itself moves is its own."""
    for row in present(group):
        if row.watched is None or not row.watched.transfers:
            continue
        outside = [entry for entry in row.watched.transfers if entry[3] is None]
        inside = [entry for entry in row.watched.transfers if entry[3] is not None]
        for entries, status in ((outside, "fail"), (inside, "warn")):
            if entries:
                nbytes, source, target, place = max(entries, key=lambda entry: entry[0])
                where = "the timed step" if place is None else f"the model ({place or 'its forward'})"
                message = (
                    f"{where} copies {sum(e[0] for e in entries):,} bytes between devices inside the timed"
                    f" region; the largest {nbytes:,} from {source} to {target}"
                )
                yield Finding("transfer", status, row.name, message)


def peak(group: Group, strict: bool) -> Iterator[Finding]:
    """No device computes faster than its peak."""
    for row in present(group):
        if row.rejected is not None:
            message = (
                f"{row.rejected:.0%} of the device's peak cannot be: the time, the count or the peak is"
                " wrong (algorithms like Winograd's do with fewer products than are counted)"
            )
            yield Finding("peak", "fail", row.name, message, {"fraction": row.rejected})


def overflow(group: Group, strict: bool) -> Iterator[Finding]:
    """Values that are finite in float64 and not in this precision, by the layer that made them."""
    for row in present(group):
        if row.drift is not None and row.drift.first_bad is not None:
            inner = next(m for m in row.drift.modules if m.module == row.drift.first_bad)
            reached = "" if inner.max_abs is None else f"; in float64 it reaches {inner.max_abs:.3g}"
            message = (
                f"first NaN or infinity in {row.drift.first_bad} ({row.drift.first_bad_type}):"
                f" {inner.nans:,} NaN, {inner.infs:,} infinite{reached}"
            )
            status = "fail" if strict else "warn"
            evidence = {"module": row.drift.first_bad, "nans": inner.nans, "infs": inner.infs}
            yield Finding("overflow", status, row.name, message, evidence)


def grad_scaler(group: Group, strict: bool) -> Iterator[Finding]:
    """A step that GradScaler skips trains nothing, and takes less time."""
    for row in present(group):
        if not row.precision.scaler or row.mode != "train" or not row.steps:
            continue
        said = f"GradScaler skipped {row.skipped} of {row.steps} steps"
        evidence = {"skipped": row.skipped, "steps": row.steps}
        if row.skipped >= row.steps:
            yield Finding("grad_scaler", "fail", row.name, f"{said}: nothing was trained", evidence)
        elif row.skipped:
            yield Finding("grad_scaler", "warn", row.name, f"{said}, while it found its scale", evidence)
        else:
            yield Finding("grad_scaler", "pass", row.name, said, evidence)


def steady(group: Group, strict: bool) -> Iterator[Finding]:
    """A row whose times had not settled before it was measured is worth less."""
    for row in present(group):
        if row.warm is not None and not row.warm.stable:
            yield Finding("steady", "warn", row.name, f"not stable after {row.warm.calls} warm-up steps")
        if row.watched is not None and row.watched.loss_finite is False:
            yield Finding("steady", "warn", row.name, "the loss is not finite while it is timed")


def drift_known(group: Group, strict: bool) -> Iterator[Finding]:
    """A drift that could not be measured has its reason."""
    for row in present(group):
        reason = row.no_drift or (row.drift.reason if row.drift is not None else "")
        if reason:
            yield Finding("drift", "skip", row.name, f"not known: {reason}")


def absent(group: Group, strict: bool) -> Iterator[Finding]:
    """Rows that could not be measured."""
    for row in group.rows:
        if row.absent:
            yield Finding("absent", "skip", row.name, row.absent)


CHECKS: tuple[Callable[[Group, bool], Iterator[Finding]], ...] = (
    absent, effective_precision, synchronise, same_batch, mode, transfer, peak, overflow, grad_scaler,
    steady, drift_known,
)  # fmt: skip
_PASSED: dict[Callable[[Group, bool], Iterator[Finding]], str] = {
    effective_precision: "float32 rows ran in IEEE float32 (probed), no flag moved",
    same_batch: "all rows were given the same samples",
    mode: "every module was in the mode of the row",
    transfer: "nothing moved between devices while the clock ran",
}


def _subject(group: Group) -> str:
    return f"{group.mode}/{group.batch}"


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return ", ".join("x".join(map(str, shape)) for shape in shapes) or "nothing"


def _alike(a: float, b: float) -> bool:
    """Marks of the same values, one of them perhaps rounded to bfloat16 (see watch)."""
    return abs(a - b) < 0.05 or (math.isnan(a) and math.isnan(b))
