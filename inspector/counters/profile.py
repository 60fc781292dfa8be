"""The report of `inspect profile` with the numbers of another counter in place of ours."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from inspector.core.errors import InspectError
from inspector.counters import find
from inspector.counters.isolate import DOUBLED, TIMEOUT, WORST_CASE, Question, ask
from inspector.counters.record import BACKWARD, Count, Counter
from inspector.models import Model
from inspector.profiling.report import report
from inspector.profiling.run import trace
from inspector.reporting.report import Finding, Report, metric
from inspector.tracing.record import Op, Trace

_UNCOUNTED = ("pointwise_flops", "flops", "activations", "bytes_moved", "ops", "unknown_ops")
_COLUMNS = ("flops", "activations", "bytes", "unknown_ops", "unknown")


def counted(
    model: Model,
    inputs: Any = None,
    *,
    counter: str,
    phase: str = "forward",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    by: str = "module",
    depth: int = 2,
    top: int | None = None,
    call: str | None = None,
) -> Report:
    """What `profile` returns, counted by thop, fvcore, torch or another adapter of inspector.counters.

    MACs are the counter's (FLOPs of one that prints those are halved), by module where it reports them;
    what it does not count is None. Raises InspectError when it is missing, fails, or gives a total only.
    """
    adapter = find(counter)
    if phase == "train" and not adapter.trains:
        raise InspectError(f"{counter} counts a forward only", 'leave out `phase="train"`, or use torch')
    base = trace(model, inputs, phase=phase, seed=seed, model_args=model_args, call=call)
    outcome = ask([adapter], Question.of(model, inputs, base, seed, model_args, TIMEOUT))[0]
    if outcome.status == "not installed":
        raise InspectError(f"{adapter.package} is not installed", f"install it with: {adapter.install}")
    if outcome.count is None:
        raise InspectError(
            f"{counter} could not count {base.model}: {outcome.message}",
            'see what it printed with `logging.getLogger("inspector")`',
        )
    if not outcome.count.cells and outcome.count.value:
        raise InspectError(f"{counter} gives a total only, no modules", "see it with: inspect reconcile")
    made = report(_as_trace(base, adapter, outcome.count), by=by, depth=depth, top=top)
    made.findings += _missing(base, adapter, outcome.count)
    return _without_what_it_does_not_say(made, adapter, outcome.count, outcome.version)


def _missing(found: Trace, counter: Counter, count: Count) -> list[Finding]:
    """What our trace has and the counter does not see, by cause."""
    if any(note.startswith(WORST_CASE) for note in found.notes):
        return []  # the counter met fewer boxes than our trace assumes
    less: Counts[str] = Counts()
    for part in counter.explain(found, count) if counter.explain else ():
        if part.amount < 0:
            less[part.cause] -= part.amount
    return [
        Finding("coverage", "warn", "", f"{counter.name} misses {macs:,} MACs: {cause}")
        for cause, macs in less.items()
    ]


def _as_trace(found: Trace, counter: Counter, count: Count) -> Trace:
    """The counter's cells as operators, so that every view works on them."""
    ops = tuple(
        Op(
            name=cell.kind,
            group="",
            module="" if cell.module == BACKWARD else cell.module,
            phase="backward" if cell.module == BACKWARD else "forward",
            inputs=(),
            outputs=(),
            macs=cell.value // counter.per_mac,
            pointwise_flops=0,
            activations=0,
            bytes_read=0,
            bytes_written=0,
        )
        for cell in count.cells
    )
    notes = tuple(note for note in found.notes if note.startswith(DOUBLED))
    return replace(found, ops=ops, storages=(), notes=notes, uncounted=(), device="cpu")


def _without_what_it_does_not_say(
    made: Report, counter: Counter, count: Count, version: str | None
) -> Report:
    for name in _UNCOUNTED:
        made.metrics[name] = replace(made.metrics[name], value=None, lower_bound=False, shown=False)
    made.metrics["params"] = metric("params", count.params)
    for name, frame in list(made.tables.items()):
        unknown = {column: [None] * len(frame) for column in _COLUMNS if column in frame}
        made.tables[name] = frame.assign(**unknown)
    made.sections = [replace(section, frame=section.frame.drop(*_COLUMNS)) for section in made.sections]
    made.header = [line for line in made.header if line[0] != "coverage"]
    made.header.append(("counter", f"{counter.name} {version or ''}: {counter.convention}"))
    made.subject["counter"] = counter.name
    return made
