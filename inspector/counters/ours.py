"""The one pass of `inspect profile`, as one counter among others."""

from __future__ import annotations

from inspector.counters.record import BACKWARD, Cell, Count, Counter
from inspector.models import Subject
from inspector.profiling.views.totals import totals
from inspector.tracing.capture import capture
from inspector.tracing.record import Trace


def run(subject: Subject, phase: str) -> Count:
    """One capture, on the device where the subject is."""
    recipe = subject.recipe
    trace = capture(
        subject.model,
        subject.args,
        subject.kwargs,
        phase=phase,
        device=subject.device,
        rules=recipe.rules_on(subject.device),
        context=recipe.context,
    )
    return of_trace(trace)


def of_trace(trace: Trace) -> Count:
    sums = totals(trace)
    cells = tuple(
        Cell(BACKWARD if op.phase == "backward" else op.module, op.name, op.macs)
        for op in trace.by_first_path().ops
        if op.macs
    )
    return Count(sums["macs"], sums["params"], cells)


COUNTER = Counter(
    name="ours",
    unit="MAC",
    convention="every contraction that ran, attention and recurrence unfolded; no bias, nothing pointwise",
    source="inspector/tracing/formulas/",
    run=run,
    explain=lambda trace, count: [],
    package="inspector",
    trains=True,
)
