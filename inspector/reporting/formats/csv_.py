"""The first section as CSV with plain numbers; unknown is an empty cell."""

from __future__ import annotations

import re
from typing import Any

from inspector.reporting.parts import Content

SUFFIXES = (".csv",)
_FORMULA = re.compile(r"(^|;)(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")
"""A text that a spreadsheet would run, also where `;` separates its cells (the wide forms are Japanese)."""
_NUMBER = re.compile(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?%?")


def render(report: Content) -> str:
    import pandas as pd

    if report.sections:
        frame = report.sections[0].frame.copy()
    else:
        frame = pd.DataFrame([{name: metric.value for name, metric in report.metrics.items()}], dtype=object)
    for place, dtype in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            cells = [_cell(value) for value in frame.iloc[:, place]]
            frame.isetitem(place, pd.Series(cells, index=frame.index, dtype=object))
    frame.columns = [_cell(name) for name in frame.columns]
    return frame.to_csv(index=False, lineterminator="\n")


def _cell(value: Any) -> Any:
    """A text that no spreadsheet takes for a formula: with an apostrophe, its own mark of text, in front."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        return value
    return _FORMULA.sub(r"\1'", value)
