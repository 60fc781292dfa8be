"""Reports of other commands inside a page: a file holds only numbers, and people need sections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from inspector.benchmarking.sections import charts as bench_charts
from inspector.distributed.sections import charts as ddp_charts
from inspector.reporting.report import Chart, Finding, Report, Section
from inspector.reporting.rows import headline
from inspector.reporting.tables import Table

_CHARTS: dict[str, tuple[str, set[str], Callable[[Table], list[Chart]]]] = {
    "bench": (
        "rows",
        {"mode", "batch", "precision", "samples_per_second", "latency_low", "latency_high", "drift"}
        | {"speedup", "speedup_low", "speedup_high"},
        bench_charts,
    ),
    "ddp": ("steps", {"step", "loss"}, ddp_charts),
}
"""By command: the table that is drawn, the columns needed, and how."""


def foreign(report: Report, subject: str) -> list[Finding]:
    """A note when a report is not about `subject`: the files identify it by name only."""
    name = report.subject.get("name")
    if name in (None, "", subject) or report.command == "env":
        return []
    return [
        Finding("added", "warn", f"inspect {report.command}", f"is about {name}, this page about {subject}")
    ]


def presentable(report: Report) -> Report:
    """The report as part of a page. One that was read from a file gets its header, sections and charts
    back; a live one has them."""
    if report.header or report.sections:
        return report
    titles = {table: f"{report.command}: {table}" for table in report.tables}
    sections = [
        Section(titles[table], frame, columns=report.columns_of(table))
        for table, frame in report.tables.items()
    ]
    listed = {key: metric for key, metric in report.metrics.items() if "/" in key}
    if listed:  # a number for each row of some table: too many for the head of a page
        sections.insert(0, _numbers(report, listed))
    metrics = {key: replace(m, shown=key not in listed) for key, m in report.metrics.items()}
    return replace(
        report,
        header=_header(report),
        sections=sections,
        charts=_drawn(report, titles),
        metrics=metrics,
        added=[presentable(entry) for entry in report.added],
    )


def _numbers(report: Report, metrics: dict) -> Section:
    rows = [(name, headline(name, metric), str(metric.unit), metric.kind) for name, metric in metrics.items()]
    return Section(f"{report.command}: numbers", Table.of(rows, ("name", "value", "unit", "kind")))


def _header(report: Report) -> list[tuple[str, str]]:
    subject = report.subject
    lines = [("model", f"{subject.get('name', '')} ({subject.get('source', '')})")]
    if isinstance(subject.get("inputs"), list) and subject["inputs"]:
        lines.append(("input", " ".join(map(str, subject["inputs"]))))
    lines += [(name, str(subject[name])) for name in ("call", "phase", "device") if subject.get(name)]
    versions = ", ".join(f"{key} {value}" for key, value in report.environment.items() if value is not None)
    return [*lines, ("made with", versions), ("verdict", report.verdict)]


def _drawn(report: Report, titles: dict[str, str]) -> list[Chart]:
    if report.command not in _CHARTS:
        return []
    table, columns, make = _CHARTS[report.command]
    frame = report.tables.get(table)
    if frame is None or not columns <= set(frame.columns):
        return []
    return [replace(chart, section=titles[table]) for chart in make(frame)]
