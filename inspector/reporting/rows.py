"""The rows that text, markdown and HTML share: every cell already written for people."""

from __future__ import annotations

from inspector.reporting.numbers import written
from inspector.reporting.report import Finding, Metric, Report, Section

MARKS = {"pass": "ok", "fail": "FAIL", "warn": "note", "skip": "skipped"}


def cells(section: Section) -> tuple[list[str], list[list[str]], list[bool]]:
    """Headings, rows of text, and which columns hold numbers (right-aligned)."""
    frame, units = section.frame, section.units
    headings = [str(column) for column in frame.columns]
    rows = [
        [written(value, units.get(column, "text")) for column, value in zip(headings, row)]
        for row in frame.astype(object).itertuples(index=False)
    ]
    return headings, rows, [units.get(column, "text") != "text" for column in headings]


def metric_rows(report: Report) -> list[list[str]]:
    """Name, value for people, exact value."""
    return [
        [metric.label or name.replace("_", " "), headline(metric), exact(metric)]
        for name, metric in report.metrics.items()
        if metric.shown
    ]


def shown_findings(report: Report) -> list[Finding]:
    """Those that no table says already."""
    return [finding for finding in report.findings if finding.shown]


def headline(metric: Metric) -> str:
    text = written(metric.value, metric.unit)
    return f"at least {text}" if metric.lower_bound and metric.value is not None else text


def exact(metric: Metric) -> str:
    value = metric.value
    if value is None:
        return ""
    number = f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return number if abs(value) >= 1000 else ""
