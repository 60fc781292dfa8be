"""Plain text for a terminal: provenance, metrics, tables, findings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from inspector.reporting.answers import answer
from inspector.reporting.fitted import fitted, wrapped
from inspector.reporting.parts import Content, Section
from inspector.reporting.rows import MARKS, cells, metric_rows, shown_findings

SUFFIXES = (".txt",)
_COLORS = {"fail": "31", "warn": "33", "pass": "32", "skip": "2", "title": "1", "label": "2"}


def render(report: Content, color: bool = False, width: int | None = None) -> str:
    """The report as text. `color` adds ANSI colours. Into a `width`, columns are left out and lines broken;
    without one all is there."""

    def paint(text: str, style: str) -> str:
        return f"\x1b[{_COLORS[style]}m{text}\x1b[0m" if color else text

    sentence = answer(report)
    parts = [paint(wrapped(sentence, width, 0), "title")] if sentence else []
    if report.header:
        longest = max(len(label) for label, _ in report.header)
        lines = [
            f"{paint(label.ljust(longest), 'label')}  {wrapped(text, width, longest + 2)}"
            for label, text in report.header
        ]
        parts.append("\n".join(lines))
    if rows := metric_rows(report):
        parts.append(aligned(rows, _RIGHT))
    for section in report.sections:
        heading = paint(section.title, "title")
        note = f"\n{wrapped(section.note, width, 0)}" if section.note else ""
        parts.append(f"{heading}\n{table(section, width)}{note}")
    if findings := shown_findings(report):
        lines = [
            f"{paint(MARKS[f.status], f.status)}  {wrapped(f.sentence, width, len(MARKS[f.status]) + 2)}"
            for f in findings
        ]
        parts.append("\n".join(lines))
    for added in report.added:
        heading = paint(added.title, "title")
        parts.append(f"{heading}\n\n{render(added, color, width).rstrip()}")
    return "\n\n".join(parts) + "\n"


_RIGHT = (False, True, True)


def table(section: Section, width: int | None = None) -> str:
    """One table; into a `width` with fewer columns, and what was left out below it."""
    headings, rows, numeric = cells(section)
    if not rows:
        return "(empty)"
    if width is None:
        return aligned(rows, numeric, headings)
    text, gone = fitted(headings, rows, numeric, width, aligned)
    if not gone:
        return text
    return f"{text}\n{wrapped('(not shown: ' + ', '.join(gone) + '; --wide shows all)', width, 0)}"


def aligned(rows: list[list[str]], right: Sequence[bool], headings: Sequence[str] = ()) -> str:
    """The rows as columns, those that are `right` aligned so, under `headings` where there are some.

    What tabulate makes of them, which is imported only where a character takes no place, or two: its import
    takes longer than all else that is printed.
    """
    if not all(cell.isascii() and cell.isprintable() for row in (*rows, headings) for cell in row):
        return _tabulated(rows, right, headings)
    widths = [max(map(len, column)) for column in zip(*rows)]
    if headings:
        widths = [max(width, len(heading) + 2) for width, heading in zip(widths, headings)]
    lines = [list(headings), ["-" * width for width in widths]] if headings else []
    pads = [str.rjust if last else str.ljust for last in right]
    return "\n".join(
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, line, widths)).rstrip()
        for line in [*lines, *rows]
    )


def _tabulated(rows: list[list[str]], right: Sequence[bool], headings: Sequence[str]) -> str:
    from tabulate import tabulate

    return tabulate(
        rows,
        headings,
        tablefmt="simple" if headings else "plain",
        disable_numparse=True,
        colalign=["right" if last else "left" for last in right],
        preserve_whitespace=True,
    )


def terminal_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns
