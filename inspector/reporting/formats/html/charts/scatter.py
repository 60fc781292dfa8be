"""Points, with intervals and names where the chart has them."""

from __future__ import annotations

from html import escape

from inspector.reporting.formats.html.charts.axes import Axis, axis, framed
from inspector.reporting.formats.html.charts.colors import css, legend
from inspector.reporting.numbers import written
from inspector.reporting.parts import Chart
from inspector.reporting.registry import is_missing, quantity
from inspector.reporting.tables import Table

NAMED = 24
"""With more points than this their names are shown by pointing only."""


def draw(chart: Chart, name: str) -> str:
    """The points in their plot; nothing where no row has both numbers."""
    frame = drawable(chart)
    if not len(frame):
        return ""
    bounds = [value for column in (chart.low, chart.high) if column for value in frame[column]]
    x = axis(chart.x, frame[chart.x], chart.log_x)
    y = axis(chart.y, [*frame[chart.y], *bounds], chart.log_y)
    names = list(dict.fromkeys(map(str, frame[chart.group]))) if chart.group else []
    texts = _texts(chart, frame, x, y)
    points = "".join(_point(chart, row, x, y, names, text) for row, text in zip(frame.records(), texts))
    label = f"{chart.title}: {len(frame)} points, {y.title} against {x.title}"
    return f'<div id="{name}">{legend(names)}{framed(x, y, points, label)}</div>'


def drawable(chart: Chart) -> Table:
    """The rows with both numbers, on a logarithmic axis above 0."""
    pairs = zip(chart.frame[chart.x], chart.frame[chart.y])
    logs = (chart.log_x, chart.log_y)
    return chart.frame.where(
        all(not is_missing(v) and (v > 0 or not log) for v, log in zip(pair, logs)) for pair in pairs
    )


def _texts(chart: Chart, frame: Table, x: Axis, y: Axis) -> list[str]:
    """The name of each point at its right or left; "" where it would lie on another: pointing shows it."""
    if not chart.label or len(frame) > NAMED:
        return [""] * len(frame)
    texts: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for row in frame.records():
        left, top, name = x.place(row[chart.x]), 100 - y.place(row[chart.y]), str(row[chart.label])
        sides = [(left + 1, left + 1 + 0.8 * len(name)), (left - 1 - 0.8 * len(name), left - 1)]
        free = [
            side
            for side in sides
            if side[0] >= 0
            and side[1] <= 100
            and not any(abs(top - t) < 5 and side[0] < b and a < side[1] for a, b, t in taken)
        ]
        texts.append("")
        if free:
            taken.append((*free[0], top))
            end = ' text-anchor="end" dx="-8"' if free[0] == sides[1] else ' dx="8"'
            texts[-1] = f'<text x="{left:.2f}%" y="{top:.2f}%" dy=".35em"{end}>{escape(name)}</text>'
    return texts


def _point(chart: Chart, row: dict, x: Axis, y: Axis, names: list[str], text: str) -> str:
    left, top = x.place(row[chart.x]), 100 - y.place(row[chart.y])
    color = css(str(row[chart.group]), names) if chart.group else "s-0"
    drawn = ""
    if chart.low and chart.high and row[chart.low] is not None and row[chart.high] is not None:
        ends = [f"{100 - y.place(row[column]):.2f}%" for column in (chart.low, chart.high)]
        drawn += f'<line x1="{left:.2f}%" x2="{left:.2f}%" y1="{ends[0]}" y2="{ends[1]}"/>'
    drawn += f'<circle cx="{left:.2f}%" cy="{top:.2f}%" r="4.5"/>'
    drawn += text
    return f'<g class="{color}" data-tip="{escape(tip(chart, row))}">{drawn}</g>'


def tip(chart: Chart, row: dict) -> str:
    columns = chart.hover or tuple(c for c in (chart.label, chart.group, chart.x, chart.y) if c)
    return "\n".join(
        f"{column.replace('_', ' ')}: {written(row[column], quantity(column).form)}" for column in columns
    )
