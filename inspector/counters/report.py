"""Why do the counters disagree? Run them side by side, and explain every difference."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.counters import NAMES, find, published
from inspector.counters.isolate import DOUBLED, TIMEOUT, WORST_CASE, Outcome, Question, ask
from inspector.counters.reconcile import Explanation, causes, explain, total_only
from inspector.counters.record import CAUSES, UNEXPLAINED, Count, Counter
from inspector.models import Model, Recipe, as_recipe
from inspector.profiling.run import compiler_left_out, trace
from inspector.profiling.views.totals import totals
from inspector.reporting.report import Finding, Metric, Report, Section, environment, metric, metrics
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace, called

NEGLIGIBLE = 1e-3
"""A remainder below this share of the larger total needs no note."""


def reconcile(
    model: Model,
    inputs: Any = None,
    *,
    counters: Sequence[str] | None = None,
    table: str | Path | None = None,
    phase: str = "forward",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
    call: str | None = None,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Report:
    """Count `model` with every counter, and say where each differs from ours and why.

    A spec is counted by each counter in a process of its own, with `timeout` seconds, several side by side as
    processors and memory allow: their seconds are not those of a counter alone. An nn.Module is
    copied for each counter and stays untouched. `counters` chooses among inspector.counters.NAMES
    (`published` too); `table` is a CSV file with the columns model, input, macs, params; `call`
    is a method to run in place of the forward. `tell` hears which counters run, and the share that is done.
    """
    names = _chosen(counters)
    if not 0 < timeout < 1e9:
        raise InspectError(
            f"a time-out of {timeout:g} s makes no sense", "pass `timeout=` a number of seconds"
        )
    with compiler_left_out(model, model_args):
        recipe = as_recipe(model, model_args, call)
        base = trace(recipe, inputs, phase=phase, seed=seed)
        figures = published.table(Path(table), base) if table is not None else []
        traces = _Circumstances(recipe, inputs, base, seed)
        question = Question.of(model, inputs, base, seed, model_args, timeout)
        chosen = [find(name) for name in names if name != "published"]
        outcomes = ask(chosen, question, tell)
        results = [_result(counter, outcome, traces) for counter, outcome in zip(chosen, outcomes)]
        if "published" in names:
            results.append(_published(base, model_args))
        results += [_figure(figure, base) for figure in figures]
        return _report(results, base, table if not figures else None)


def _chosen(counters: Sequence[str] | None) -> list[str]:
    names = [*NAMES, "published"]
    for name in counters or ():
        if name not in names:
            raise InspectError(f"no counter is called {name!r}", f"use some of: {', '.join(names)}")
    wanted = names if not counters else ["ours", *counters]
    return [name for name in names if name in wanted]


@dataclass
class _Circumstances:
    """Our traces of what a counter was given to run, each made when it is first needed."""

    recipe: Recipe
    inputs: Any
    found: Trace
    seed: int
    _made: dict[str, Trace] = field(default_factory=dict)

    def of(self, counter: Counter) -> Trace:
        found = self.found
        phase = found.phase if counter.trains else "forward"
        device = "cpu" if any(note.startswith(WORST_CASE) for note in found.notes) else None
        if counter.name == "ours" or (phase == found.phase and device is None):
            return found
        if phase not in self._made:
            doubled = any(note.startswith(DOUBLED) for note in found.notes)
            inputs = list(found.inputs) if doubled else self.inputs
            self._made[phase] = trace(self.recipe, inputs, phase=phase, device=device, seed=self.seed)
        return self._made[phase]


@dataclass(frozen=True)
class _Result:
    """A row of the report: who counted, what came out, and the explanation."""

    name: str
    unit: str
    convention: str
    source: str
    outcome: Outcome
    explanation: Explanation | None = None

    @property
    def macs(self) -> int | None:
        count = self.outcome.count
        return None if count is None else count.value // (2 if self.unit == "FLOP" else 1)

    def share(self, ours: int) -> float | None:
        """The unexplained remainder as a share of the larger total."""
        if self.explanation is None:
            return None
        larger = max(ours, self.macs or 0)
        return self.explanation.unexplained / larger if larger else 0.0


def _result(counter: Counter, outcome: Outcome, traces: _Circumstances) -> _Result:
    explanation = None
    if outcome.count is not None:
        if counter.explain is None:
            explanation = total_only(counter, outcome.count, traces.found, [])
        else:
            explanation = explain(counter, outcome.count, traces.found, traces.of(counter))
    return _Result(counter.name, counter.unit, counter.convention, counter.source, outcome, explanation)


_PUBLISHED = "MACs of convolutions and matrix products, rounded to 0.001 G (called GFLOPS); eval mode"


def _published(found: Trace, model_args: Mapping[str, Any] | None) -> _Result:
    figure = published.torchvision(found, model_args)
    if isinstance(figure, str):
        return _Result(
            "published", "MAC", _PUBLISHED, "torchvision.models", Outcome("absent", message=figure)
        )
    return _figure(figure, found, _PUBLISHED)


def _figure(figure: published.Figure, found: Trace, convention: str = "as the table says") -> _Result:
    difference = figure.count.value - totals(found)["macs"]
    parts = published.explain(difference, figure.count)
    explanation = total_only(None, figure.count, found, parts)
    return _Result(figure.place, "MAC", convention, figure.source, Outcome("ok", figure.count), explanation)


# The report.


def _report(results: list[_Result], found: Trace, unmatched: str | Path | None) -> Report:
    sums = totals(found)
    ours = sums["macs"]
    partial = sums["unknown_ops"] > 0
    rows = Table.of([_row(result, ours) for result in results])
    reasons = Table.of(
        [{"counter": r.name, **row} for r in results if r.explanation for row in causes(r.explanation)],
        ("counter", "cause", "operator", "amount", "modules", "largest_module"),
    )
    joined = Table.of(_joined(results), ("counter", "module", "operator", "cause", "phase", "amount"))
    return Report(
        command="reconcile",
        subject=found.subject,
        environment=environment(seed=found.environment.get("seed")),
        metrics=_metrics(results, ours, partial),
        tables={"counters": rows, "causes": reasons, "differences": joined},
        findings=_findings(results, found, ours, unmatched),
        header=[
            ("model", f"{found.model} ({found.source})"),
            *called(found.call),
            ("input", " ".join(found.inputs)),
            ("phase", found.phase),
        ],
        sections=_sections(rows, reasons, ours),
    )


def _row(result: _Result, ours: int) -> dict[str, Any]:
    outcome, explanation = result.outcome, result.explanation
    count = outcome.count
    return {
        "counter": result.name,
        "version": outcome.version,
        "status": outcome.status,
        "says": count.value if count else None,
        "unit": result.unit,
        "macs": result.macs,
        "difference": explanation.difference if explanation else None,
        "unexplained": explanation.unexplained if explanation else None,
        "unexplained_share": result.share(ours),
        "params": count.params if count else None,
        "seconds": outcome.seconds,
        "peak_bytes": outcome.peak_bytes,
        "convention": result.convention,
        "source": result.source,
        "message": outcome.message,
    }


def _joined(results: list[_Result]) -> Iterator[tuple[Any, ...]]:
    for result in results:
        if result.explanation is None:
            continue
        for part in result.explanation.parts:
            yield result.name, part.module, part.operator, part.cause, part.phase, part.amount
        for module, amount in result.explanation.remainder.items():
            yield result.name, module, "", UNEXPLAINED, "", amount


def _metrics(results: list[_Result], ours: int, partial: bool) -> dict[str, Metric]:
    values: dict[str, int | None] = {}
    for result in results:
        if result.name in NAMES and result.name != "ours":
            values[f"macs_{result.name}"] = result.macs
            explanation = result.explanation
            values[f"unexplained_{result.name}"] = explanation.unexplained if explanation else None
    return {"macs": metric("macs", ours, lower_bound=partial, label="our MACs"), **metrics(values)}


def _sections(rows: Table, reasons: Table, ours: int) -> list[Section]:
    ran = rows.where(status == "ok" for status in rows["status"])
    columns = ["counter", "says", "unit", "macs", "difference", "unexplained_share", "seconds", "peak_bytes"]
    shown = ran.select(columns).rename({"unexplained_share": "unexplained", "peak_bytes": "peak"})
    shown = shown.drop(*(name for name in ("seconds", "peak") if set(shown[name]) <= {None}))
    why = reasons.assign(
        largest_module=[path or "(the model)" for path in reasons["largest_module"]],
        of_ours=[abs(amount) / ours if ours else None for amount in reasons["amount"]],
    )
    met = [cause for cause in CAUSES if cause in set(reasons["cause"])]
    legend = Table({"cause": met, "meaning": [CAUSES[cause] for cause in met]})
    counts = Table({"counter": ran["counter"], "counts": map(_folded, ran["convention"])})
    sections = [
        Section("counters (difference: what it says minus our MACs)", shown),
        Section("why they differ (in MACs)", why),
        Section("causes", legend),
        Section("what each counts", counts),
    ]
    return [section for section in sections if len(section.frame)]


def _folded(text: str) -> str:
    """A long text in lines; formats that need no line breaks join them."""
    return textwrap.fill(text, 88)


def _findings(results: list[_Result], found: Trace, ours: int, unmatched: str | Path | None) -> list[Finding]:
    findings = [Finding("provenance", "warn", "", note) for note in found.notes]
    if (at_once := max(result.outcome.at_once for result in results)) > 1:
        slower = f"{at_once} counters ran side by side: alone, each takes less time than it says"
        findings.append(Finding("provenance", "warn", "", slower))
    if unknown := totals(found)["unknown_ops"]:
        message = f"{unknown} operators have no formula: our count is a lower bound"
        findings.append(Finding("coverage", "warn", "ours", message))
    for result in results:
        outcome, share = result.outcome, result.share(ours)
        if outcome.status != "ok":
            status = "skip" if outcome.status in ("not installed", "absent") else "warn"
            message = outcome.message if status == "skip" else f"{outcome.status}: {outcome.message}"
            findings.append(Finding("counter", status, result.name, message))
        elif share is not None and share > NEGLIGIBLE:
            message = f"{share:.2%} of the larger total is unexplained"
            findings.append(Finding("remainder", "warn", result.name, message + _total_only(result)))
    if unmatched is not None:
        message = f"no row for {found.model} with {' '.join(found.inputs)}"
        findings.append(Finding("table", "warn", str(unmatched), message))
    return findings


def _total_only(result: _Result) -> str:
    count: Count | None = result.outcome.count
    return ": it gives a total only" if count is not None and not count.cells else ""
