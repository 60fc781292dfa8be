"""The charts of a full HTML page, as data that plotly's script, once in the page, draws."""

from __future__ import annotations

import gzip
from base64 import b64encode
from html import escape
from typing import TYPE_CHECKING, Any

from inspector.reporting.numbers import written
from inspector.reporting.report import Chart

if TYPE_CHECKING:
    import pandas as pd

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
_SCALED = ("count", "MAC", "FLOP")
"""Units whose axis has prefixes: 10M."""


def html(chart: Chart, name: str) -> str:
    """One chart as a piece of a page, without its title: the same chart gives the same text."""
    if chart.kind == "icicle":
        from inspector.reporting.formats.html.icicle import html as icicle

        return icicle(chart, name) + _note(chart)
    shown, left = _split(chart)
    parts = [plot(_figure(chart, shown), name)] if len(shown) else []
    parts.append(_note(chart))
    if left:
        parts.append(f"<p>not shown, because not measured: {escape(', '.join(left))}</p>")
    return "".join(parts)


def plot(figure: Any, name: str) -> str:
    """The place of a figure and its data, which the page's script draws there."""
    data = figure.to_json(engine="json").replace("<", "\\u003c")
    height = figure.layout.height
    return (
        f'<div class="plot" id="{name}" style="min-height:{height}px"></div>'
        f'<script type="application/json" id="{name}-data">{data}</script>'
    )


def script() -> str:
    """Plotly's own script, gzip in base64: 2 MB instead of 5. The page's script unpacks it."""
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    packed = b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return (
        f"<!-- plotly.js v{get_plotlyjs_version()}, MIT license, github.com/plotly/plotly.js -->\n"
        f'<script type="application/gzip" id="plotly-packed">{packed}</script>\n'
    )


def layout(**more: Any) -> dict[str, Any]:
    """What all charts have in common, and more."""
    return {**_LAYOUT, **more}


def _note(chart: Chart) -> str:
    return f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""


def _split(chart: Chart) -> tuple[pd.DataFrame, list[str]]:
    """The rows that can be drawn, and the names of the others."""
    known = chart.frame[[chart.x, chart.y]].notna().all(axis=1)
    names = [part for part in (chart.group, chart.label or chart.x) if part]
    left = [
        ", ".join(dict.fromkeys(str(row[name]) for name in names))
        for _, row in chart.frame[~known].iterrows()
    ]
    return chart.frame[known], left


def _figure(chart: Chart, frame: pd.DataFrame) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure(layout=layout())
    groups = frame.groupby(chart.group, sort=False) if chart.group else [("", frame)]
    for title, rows in groups:
        figure.add_trace(_trace(graph_objects, chart, rows, str(title)))
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zerolinecolor": "rgba(128,128,128,.5)"}
    kind = "category" if chart.kind == "bar" else "log" if chart.log_x else "-"
    figure.update_xaxes(type=kind, **_axis(chart, chart.x), **grid)
    figure.update_yaxes(type="log" if chart.log_y else "-", **_axis(chart, chart.y), **grid)
    figure.update_layout(barmode="group", showlegend=chart.group is not None, hovermode="closest")
    if chart.kind == "area":
        _point_at_all(figure, chart, rows)
    return figure


def _point_at_all(figure: Any, chart: Chart, top: pd.DataFrame) -> None:
    """One box for all areas at a place; what `hover` says is the same in all, so the top one shows it."""
    figure.update_layout(hovermode="x unified")
    figure.update_traces(hovertemplate=f"%{{y:,.2f}} {plain(chart.y)}")
    if chart.hover:
        figure.data[-1].customdata = pointed(chart, top)
        figure.data[-1].hovertemplate = f"%{{y:,.2f}} {plain(chart.y)}<br>%{{customdata}}"


def _axis(chart: Chart, column: str) -> dict[str, Any]:
    style = "SI" if chart.units.get(column) in _SCALED else "power"
    return {"title": {"text": plain(column)}, "exponentformat": style}


def _trace(graph_objects: Any, chart: Chart, rows: pd.DataFrame, title: str) -> Any:
    common: dict[str, Any] = {
        "x": [plain(value) for value in rows[chart.x]],
        "y": [float(value) for value in rows[chart.y]],
        "name": plain(title),
        "error_y": _errors(chart, rows),
    }
    if chart.hover and chart.kind != "area":
        common |= {"hovertext": pointed(chart, rows), "hoverinfo": "text"}
    labels = [plain(value) for value in rows[chart.label]] if chart.label else None
    if chart.kind == "bar":
        return graph_objects.Bar(**common, text=labels)
    if chart.kind == "area":
        common |= {"stackgroup": "all", "line": {"shape": "hv", "width": 1}, "error_y": None}
        return graph_objects.Scatter(**common, mode="lines")
    mode = "lines" if chart.kind == "line" else "markers+text" if labels else "markers"
    return graph_objects.Scatter(**common, mode=mode, text=labels, textposition="top center")


def pointed(chart: Chart, rows: pd.DataFrame) -> list[str]:
    """What pointing at each row shows: a line for each of the chart's `hover` columns."""
    frame = rows[list(chart.hover)].astype(object)
    return [
        "<br>".join(
            plain(f"{column}: {written(value, chart.units.get(column, 'text'))}")
            for column, value in zip(chart.hover, row)
        )
        for row in frame.itertuples(index=False)
    ]


def _errors(chart: Chart, rows: pd.DataFrame) -> dict[str, Any] | None:
    if chart.low is None or chart.high is None:
        return None
    middle = rows[chart.y].astype(float)
    above = (rows[chart.high].astype(float) - middle).fillna(0.0)
    below = (middle - rows[chart.low].astype(float)).fillna(0.0)
    return {
        "type": "data",
        "symmetric": False,
        "array": list(above),
        "arrayminus": list(below),
        "color": "#888",
    }


def plain(value: Any) -> Any:
    """Names as text: plotly reads a few HTML tags in them."""
    return value.replace("&", "&amp;").replace("<", "&lt;") if isinstance(value, str) else value
