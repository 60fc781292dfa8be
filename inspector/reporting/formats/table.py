"""Plain text for a terminal: provenance, metrics, tables, findings."""

from __future__ import annotations

import shutil

from tabulate import tabulate

from inspector.reporting.parts import Content, Section
from inspector.reporting.rows import MARKS, cells, metric_rows, shown_findings

SUFFIXES = (".txt",)
_COLORS = {"fail": "31", "warn": "33", "pass": "32", "skip": "2", "title": "1", "label": "2"}


def render(report: Content, color: bool = False, width: int | None = None) -> str:
    """The report as text. `color` adds ANSI colours, `width` (default: none) cuts wide tables' names."""

    def paint(text: str, style: str) -> str:
        return f"\x1b[{_COLORS[style]}m{text}\x1b[0m" if color else text

    parts = []
    if report.header:
        longest = max(len(label) for label, _ in report.header)
        lines = [f"{paint(label.ljust(longest), 'label')}  {text}" for label, text in report.header]
        parts.append("\n".join(lines))
    if rows := metric_rows(report):
        parts.append(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=_ALIGN))
    for section in report.sections:
        heading = paint(section.title, "title")
        note = f"\n{section.note}" if section.note else ""
        parts.append(f"{heading}\n{table(section, width)}{note}")
    if findings := shown_findings(report):
        parts.append("\n".join(f"{paint(MARKS[f.status], f.status)}  {f.sentence}" for f in findings))
    for added in report.added:
        heading = paint(added.title, "title")
        parts.append(f"{heading}\n\n{render(added, color, width).rstrip()}")
    return "\n\n".join(parts) + "\n"


_ALIGN = ("left", "right", "right")


def table(section: Section, width: int | None = None) -> str:
    """One table; its first column is shortened in the middle when the line would pass `width`."""
    headings, rows, numeric = cells(section)
    if not rows:
        return "(empty)"
    align = ["right" if number else "left" for number in numeric]
    text = _table(headings, rows, align)
    excess = max(map(len, text.splitlines())) - (width or 10**9)
    if excess > 0:
        room = max(max(len(row[0]) for row in rows) - excess, 12)
        rows = [[_shortened(row[0], room), *row[1:]] for row in rows]
        text = _table(headings, rows, align)
    return text


def _table(headings: list[str], rows: list[list[str]], align: list[str]) -> str:
    return tabulate(
        rows,
        headings,
        tablefmt="simple",
        disable_numparse=True,
        colalign=align,
        preserve_whitespace=True,
    )


def _shortened(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    head = (room - 3) // 2
    return text[:head] + "..." + text[len(text) - (room - 3 - head) :]


def terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns
