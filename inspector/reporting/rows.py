"""The rows that text, markdown and HTML share: every cell already written for people."""

from __future__ import annotations

from inspector.reporting.numbers import written
from inspector.reporting.parts import Content, Finding, Metric, Section
from inspector.reporting.registry import Quantity, Unit, form_in, quantity

MARKS = {"pass": "ok", "fail": "FAIL", "warn": "note", "skip": "skipped"}


def cells(section: Section) -> tuple[list[str], list[list[str]], list[bool]]:
    """Headings, rows of text, and which columns hold numbers (right-aligned). A column of nothing but texts
    is text, whatever the registry knows by its name, unless the section says what it holds."""
    headings, values = section.frame.columns, list(section.frame.rows())
    held = [section.quantity(heading) for heading in headings]
    rows = [[written(value, entry.form) for value, entry in zip(row, held)] for row in values]
    texts = [
        bool(values) and heading not in section.columns and all(isinstance(row[place], str) for row in values)
        for place, heading in enumerate(headings)
    ]
    named = [heading_of(heading, entry) for heading, entry in zip(headings, held)]
    return named, rows, [entry.unit != Unit.NONE and not text for entry, text in zip(held, texts)]


def heading_of(column: str, entry: Quantity) -> str:
    """A column's name for people: MACs for macs, words for what has an underscore. `params` is one already,
    and a narrow one."""
    return column if column == "params" else entry.label or column.replace("_", " ")


def metric_rows(report: Content) -> list[list[str]]:
    """Name, value for people, exact value."""
    return [
        [metric.label or name.replace("_", " "), headline(name, metric), exact(metric)]
        for name, metric in report.metrics.items()
        if metric.shown
    ]


def shown_findings(report: Content) -> list[Finding]:
    """Those that no table says already."""
    return [finding for finding in report.findings if finding.shown]


def headline(name: str, metric: Metric) -> str:
    """The value of the metric called `name` for people."""
    text = written(metric.value, form_in(metric.unit, quantity(name)))
    return f"at least {text}" if metric.lower_bound and metric.value is not None else text


def exact(metric: Metric) -> str:
    value = metric.value
    if value is None:
        return ""
    number = f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return number if abs(value) >= 1000 else ""
