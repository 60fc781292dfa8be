"""What the charts of a page have in common: colours, layout, names as text, and the place of a figure."""

from __future__ import annotations

from typing import Any

from inspector.reporting.numbers import written
from inspector.reporting.parts import Chart
from inspector.reporting.registry import quantity
from inspector.reporting.tables import Table

COLORS = ["#3f6ea3", "#b85c16", "#3b7d34", "#8d5a86", "#b83e3e", "#2f7774", "#8a6a0a", "#7d5a45"]
"""White text can be read on each, and each can be seen on a white and on a black page."""
_LAYOUT: dict[str, Any] = {
    "template": "none",
    "colorway": COLORS,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": "#888", "family": "system-ui, sans-serif", "size": 12},
    "margin": {"l": 60, "r": 16, "t": 16, "b": 56},
    "height": 420,
    "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    "hoverlabel": {"align": "left"},
}


def plot(figure: Any, name: str) -> str:
    """The place of a figure and its data, which the page's script draws there."""
    data = figure.to_json(engine="json").replace("<", "\\u003c")
    height = figure.layout.height
    return (
        f'<div class="plot" id="{name}" style="min-height:{height}px"></div>'
        f'<script type="application/json" id="{name}-data">{data}</script>'
    )


def layout(**more: Any) -> dict[str, Any]:
    """What all charts have in common, and more."""
    return {**_LAYOUT, **more}


def pointed(chart: Chart, rows: Table) -> list[str]:
    """What pointing at each row shows: a line for each of the chart's `hover` columns."""
    return [
        "<br>".join(
            plain(f"{column}: {written(value, quantity(column).form)}")
            for column, value in zip(chart.hover, row)
        )
        for row in rows.select(chart.hover).rows()
    ]


def plain(value: Any) -> Any:
    """Names as text: plotly reads a few HTML tags in them."""
    return value.replace("&", "&amp;").replace("<", "&lt;") if isinstance(value, str) else value
