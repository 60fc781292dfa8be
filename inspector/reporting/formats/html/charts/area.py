"""Columns on top of each other over a line, for example live bytes by role; the peak is marked."""

from __future__ import annotations

import json
from html import escape
from itertools import accumulate

from inspector.reporting.formats.html.charts.axes import Axis, axis, framed, stretched
from inspector.reporting.formats.html.charts.colors import css
from inspector.reporting.numbers import size
from inspector.reporting.parts import Chart
from inspector.reporting.tables import Table

SCRIPT = "area.js"
MOST = 600
"""Steps that are drawn at most: of more, each is the highest of its stretch."""


def draw(chart: Chart, name: str) -> str:
    """The areas, with a switch where the reader can leave one out."""
    frame = thinned(chart.frame, chart.choices)
    parts = [part for part in chart.choices if any(frame[part])]
    if not parts:
        return ""
    views = [_view(chart, frame, parts, parts)]
    switch = ""
    if chart.optional in parts and len(parts) > 1:
        rest = [part for part in parts if part != chart.optional]
        views.append(_view(chart, frame, rest, parts, hidden=True))
        name_ = chart.optional if chart.optional.endswith("s") else f"{chart.optional}s"
        switch = f'<label class="check"><input type="checkbox" checked> show {escape(name_)}</label>'
    items = "".join(f'<li><i class="{css(part, parts)}"></i>{escape(part)}</li>' for part in parts)
    values = {
        "x": frame[chart.x], "label": frame[chart.label] if chart.label else [],
        "parts": {part: frame[part] for part in parts},
    }  # fmt: skip
    data = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<div class="areas" id="{name}"><div class="bar"><ul class="legend">{items}</ul>{switch}</div>'
        f'{"".join(views)}<p class="detail" aria-live="polite">Point at the chart: what lives there.</p>'
        f'<script type="application/json" class="values">{data}</script></div>'
    )


def thinned(frame: Table, parts: tuple[str, ...]) -> Table:
    """At most MOST rows, each the highest of as many neighbours."""
    count = len(frame)
    if count <= MOST:
        return frame
    totals = [sum(row) for row in zip(*(frame[part] for part in parts))]
    highest = {
        max(range(n * count // MOST, (n + 1) * count // MOST), key=totals.__getitem__) for n in range(MOST)
    }
    return frame.where(place in highest for place in range(count))


def _view(chart: Chart, frame: Table, parts: list[str], every: list[str], hidden: bool = False) -> str:
    """The areas of `parts`, in the colours that they have among `every` one, and their own peak."""
    stacks = list(zip(*(accumulate(row) for row in zip(*(frame[part] for part in parts)))))
    totals = stacks[-1]
    top = totals.index(max(totals))
    x = Axis(chart.x, 0, len(frame), False, _ticks(frame[chart.x]))
    y = axis(chart.y, [0, max(totals)], from_zero=True)
    below: tuple[int, ...] = (0,) * len(totals)
    drawn = ""
    for part, stack in zip(parts, stacks):
        drawn += f'<path class="{css(part, every)}" d="{_band(x, y, below, stack)}"/>'
        below = stack
    left, height = x.place(top + 0.5), 100 - y.place(totals[top])
    mark = (
        f'<g class="peak"><line x1="{left:.2f}%" x2="{left:.2f}%" y1="0" y2="100%"/>'
        f'<circle cx="{left:.2f}%" cy="{height:.2f}%" r="5"/></g>'
    )
    running = f", in {frame[chart.label][top]}" if chart.label and frame[chart.label][top] else ""
    text = f"peak: {size(totals[top])} at {chart.x} {frame[chart.x][top]:,}{running}"
    label = f"{chart.title}: {', '.join(parts)} on top of each other; {text}"
    return (
        f'<div class="view"{" hidden" if hidden else ""} data-peak="{totals[top]}" data-high="{y.high:g}">'
        f'<p class="peak"><i></i>{escape(text)}</p>{framed(x, y, stretched(drawn) + mark, label)}</div>'
    )


def _ticks(values: list[int]) -> tuple[tuple[float, str], ...]:
    """The operators at about five even places."""
    every = max(1, len(values) // 5)
    return tuple((place + 0.5, f"{values[place]:,}") for place in range(0, len(values), every))


def _band(x: Axis, y: Axis, low: tuple[int, ...], high: tuple[int, ...]) -> str:
    """The steps of `high`, and back along those of `low`."""

    def steps(values: tuple[int, ...], places: range) -> list[str]:
        points = []
        for place in places:
            ends = (place, place + 1) if places.step > 0 else (place + 1, place)
            points += [f"{10 * x.place(end):.2f} {1000 - 10 * y.place(values[place]):.2f}" for end in ends]
        return points

    count = len(high)
    return "M" + "L".join([*steps(high, range(count)), *steps(low, range(count - 1, -1, -1))]) + "Z"
