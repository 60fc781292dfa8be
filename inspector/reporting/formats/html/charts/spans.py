"""Pieces of time under each other, as deep as they are nested."""

from __future__ import annotations

from html import escape

from inspector.reporting.formats.html.charts.axes import axis
from inspector.reporting.formats.html.charts.colors import css, legend, order
from inspector.reporting.formats.html.charts.scatter import tip
from inspector.reporting.parts import Chart

STYLE = "spans.css"
LEAST = 0.04
"""Percent of the width below which a piece is not drawn: nobody would see it."""
NAMED = 5.0
"""Percent of the width from which a piece has its name in it."""


def draw(chart: Chart, name: str) -> str:
    """The pieces over an axis of time; nothing where there are none."""
    frame = chart.frame
    if not len(frame):
        return ""
    assert chart.low is not None
    assert chart.high is not None
    assert chart.label is not None
    x = axis(chart.x, [0.0, max(frame[chart.high])], from_zero=True)
    names = order({kind for kind in frame[chart.color or chart.label] if kind})
    pieces = []
    for row in frame.records():
        left, right = x.place(row[chart.low]), x.place(row[chart.high])
        if right - left >= LEAST:
            text = escape(str(row[chart.label]).rpartition(".")[2]) if right - left >= NAMED else ""
            kind = row[chart.color or chart.label]
            place = f"left:{left:.3f}%;width:{right - left:.3f}%;top:{1.5 * row[chart.y]:g}rem"
            pieces.append(
                f'<i class="{css(kind, names) if kind else "k-other"}" data-tip="{escape(tip(chart, row))}"'
                f' style="{place}">{text}</i>'
            )
    depth = max(frame[chart.y]) + 1
    ticks = "".join(f'<b style="left:{x.place(value):.2f}%">{escape(text)}</b>' for value, text in x.ticks)
    left_out = len(frame) - len(pieces)
    note = f'<p class="note">{left_out} calls are too short to be seen here.</p>' if left_out else ""
    return (
        f'<div class="spans" id="{name}">{legend(names)}<div class="scroll frame">'
        f'<div class="lanes" role="img" aria-label="{escape(chart.title)}: {len(pieces)} calls"'
        f' style="height:{1.5 * depth:g}rem">'
        f'{"".join(pieces)}</div><div class="ticks">{ticks}</div></div>'
        f'<p class="axis">{escape(x.title)}</p>{note}</div>'
    )
