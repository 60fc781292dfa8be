"""Lines, one for each group."""

from __future__ import annotations

from html import escape

from inspector.reporting.formats.html.charts.axes import Axis, axis, framed, path, stretched
from inspector.reporting.formats.html.charts.colors import css, legend
from inspector.reporting.formats.html.charts.scatter import drawable, tip
from inspector.reporting.parts import Chart
from inspector.reporting.tables import Table

MARKED = 60
"""With more points than this a line has no marks."""


def draw(chart: Chart, name: str) -> str:
    """The lines in their plot; nothing where no row has both numbers."""
    frame = drawable(chart)
    if not len(frame):
        return ""
    x, y = axis(chart.x, frame[chart.x], chart.log_x), axis(chart.y, frame[chart.y], chart.log_y)
    groups = frame.groups(chart.group) if chart.group else {"": frame}
    names = list(map(str, groups)) if chart.group else []
    lines = stretched(
        "".join(_line(chart, rows, x, y, _color(group, names)) for group, rows in groups.items())
    )
    marks = "".join(
        _marks(chart, rows, x, y, _color(group, names))
        for group, rows in groups.items()
        if len(rows) <= MARKED
    )
    label = f"{chart.title}: {y.title} over {x.title}"
    return f'<div id="{name}">{legend(names)}{framed(x, y, lines + marks, label)}</div>'


def _color(group: str, names: list[str]) -> str:
    return css(str(group), names) if names else "s-0"


def _line(chart: Chart, rows: Table, x: Axis, y: Axis, color: str) -> str:
    return f'<path class="line {color}" d="{path(x, y, zip(rows[chart.x], rows[chart.y]))}"/>'


def _marks(chart: Chart, rows: Table, x: Axis, y: Axis, color: str) -> str:
    return "".join(
        f'<g class="{color}" data-tip="{escape(tip(chart, row))}"><circle r="3.5"'
        f' cx="{x.place(row[chart.x]):.2f}%" cy="{100 - y.place(row[chart.y]):.2f}%"/></g>'
        for row in rows.records()
    )
