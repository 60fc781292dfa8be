"""Reports of other commands inside a page: a file holds their numbers, people need sections of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pandas as pd

from inspector.benchmarking import sections as bench_report
from inspector.distributed import sections as ddp_report
from inspector.reporting.report import Chart, Finding, Report, Section

UNITS = {
    "numel": "count", "params": "count", "macs": "MAC", "flops": "FLOP", "activations": "count",
    "bytes": "bytes", "memory": "bytes", "peak_allocated": "bytes", "peak_reserved": "bytes",
    "seconds": "seconds", "latency": "seconds", "latency_low": "seconds", "latency_high": "seconds",
    "p95": "seconds", "p99": "seconds", "warm_up_seconds": "seconds", "first_call_seconds": "seconds",
    "samples_per_second": "rate", "speedup": "ratio", "speedup_low": "ratio", "speedup_high": "ratio",
    "tflops": "tflops", "fraction_of_peak": "share", "share": "share", "accuracy": "share",
    "drift": "relative", "gradient_drift": "relative", "matmul_error": "relative", "conv_error": "relative",
    "rel_l2": "relative", "joules_per_sample": "joule",
}  # fmt: skip
"""Of the columns in the tables of all commands."""

_CHARTS: dict[str, tuple[str, set[str], Callable[[pd.DataFrame], list[Chart]]]] = {
    "bench": (
        "rows",
        {"mode", "batch", "precision", "samples_per_second", "latency_low", "latency_high", "drift"}
        | {"speedup", "speedup_low", "speedup_high"},
        bench_report.charts,
    ),
    "ddp": ("steps", {"step", "loss"}, ddp_report.charts),
}
"""By command: the table that is drawn, the columns needed, and how."""


_FAR = [float("inf"), float("-inf")]


def foreign(report: Report, subject: str) -> list[Finding]:
    """A note when a report is not about `subject`: names are all that the files tell."""
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
    sections = [Section(titles[table], frame, units(frame)) for table, frame in report.tables.items()]
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


def units(frame: pd.DataFrame) -> dict[str, str]:
    """How each column is written: numbers by the column's name, all other values as they are."""
    return {name: UNITS.get(name, "number") if _numeric(frame[name]) else "text" for name in frame.columns}


def _numeric(column: pd.Series) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(column) and not types.is_bool_dtype(column) and not column.isin(_FAR).any()


def _numbers(report: Report, metrics: dict) -> Section:
    from inspector.reporting.rows import headline

    rows = [(name, headline(metric), metric.unit, metric.kind) for name, metric in metrics.items()]
    return Section(
        f"{report.command}: numbers", pd.DataFrame(rows, columns=["name", "value", "unit", "kind"])
    )


def _header(report: Report) -> list[tuple[str, str]]:
    subject = report.subject
    lines = [("model", f"{subject.get('name', '')} ({subject.get('source', '')})")]
    if isinstance(subject.get("inputs"), list) and subject["inputs"]:
        lines.append(("input", " ".join(map(str, subject["inputs"]))))
    lines += [(name, str(subject[name])) for name in ("phase", "device") if subject.get(name)]
    known = ", ".join(f"{key} {value}" for key, value in report.environment.items() if value is not None)
    return [*lines, ("made with", known), ("verdict", report.verdict)]


def _drawn(report: Report, titles: dict[str, str]) -> list[Chart]:
    if report.command not in _CHARTS:
        return []
    table, columns, make = _CHARTS[report.command]
    frame = report.tables.get(table)
    if frame is None or not columns <= set(frame.columns):
        return []
    return [replace(chart, section=titles[table]) for chart in make(frame)]
