"""Horizontal bars with their intervals, in groups, each with its number."""

from __future__ import annotations

from html import escape

from inspector.reporting.formats.html.charts.axes import named
from inspector.reporting.numbers import written
from inspector.reporting.parts import Chart
from inspector.reporting.registry import is_missing, quantity
from inspector.reporting.tables import Table


def draw(chart: Chart, name: str) -> str:
    """A list of bars for each group; nothing where no row has a number."""
    frame = chart.frame.where(not is_missing(value) for value in chart.frame[chart.y])
    if not len(frame):
        return ""
    most = max(value for column in (chart.y, chart.high) if column for value in frame[column] if value)
    groups = frame.groups(chart.group) if chart.group else {"": frame}
    lists = "".join(_group(chart, group, rows, most) for group, rows in groups.items())
    return f'<div class="bars" id="{name}"><p class="axis">{escape(named(chart.y))}</p>{lists}</div>'


def _group(chart: Chart, group: str, rows: Table, most: float) -> str:
    head = f'<p class="group">{escape(str(group))}</p>' if group else ""
    return f"{head}<ul>{''.join(_bar(chart, row, most) for row in rows.records())}</ul>"


def _bar(chart: Chart, row: dict, most: float) -> str:
    form, value = quantity(chart.y).form, row[chart.y]
    text, whisker = written(value, form), ""
    low, high = (row[column] if column else None for column in (chart.low, chart.high))
    if low is not None and high is not None:
        text += f" <small>{escape(written(low, form))} to {escape(written(high, form))}</small>"
        whisker = f'<b style="left:{100 * low / most:.2f}%;width:{100 * (high - low) / most:.2f}%"></b>'
    return (
        f'<li><span class="name">{escape(str(row[chart.x]))}</span><span class="track">'
        f'<i data-v="{value:.6g}" style="width:{100 * value / most:.2f}%"></i>{whisker}</span>'
        f'<span class="value">{text}</span></li>'
    )
