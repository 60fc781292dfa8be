"""The first section as CSV with plain numbers; unknown is an empty cell."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

from inspector.reporting.parts import Content
from inspector.reporting.registry import is_missing
from inspector.reporting.tables import Table

SUFFIXES = (".csv",)
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""A text that a spreadsheet would run, also where `;` separates its cells (the wide forms are Japanese)."""
_NUMBER = re.compile(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?%?")


def render(report: Content) -> str:
    if report.sections:
        table = report.sections[0].frame
    else:
        table = Table({name: [metric.value] for name, metric in report.metrics.items()})
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(_cell, table))
    writer.writerows(map(_cell, row) for row in table.rows())
    return stream.getvalue()


def _cell(value: Any) -> Any:
    """Unknown is empty. A text that no spreadsheet takes for a formula: with an apostrophe, its own mark of
    text, in front."""
    if is_missing(value):
        return ""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", value)
