"""The charts of a full HTML page, as data that plotly's script, once in the page, draws."""

from __future__ import annotations

import gzip
from base64 import b64encode
from html import escape
from typing import Any

from inspector.reporting.formats.html import icicle
from inspector.reporting.formats.html.plots import layout, plain, plot, pointed
from inspector.reporting.parts import Chart
from inspector.reporting.registry import Unit, is_missing, quantity
from inspector.reporting.tables import Table

_SCALED = (Unit.COUNT, Unit.MAC, Unit.FLOP)
"""Units whose axis has prefixes: 10M."""


def html(chart: Chart, name: str) -> str:
    """One chart as a piece of a page, without its title: the same chart gives the same text."""
    if chart.kind == "icicle":
        return icicle.html(chart, name) + _note(chart)
    shown, left = _split(chart)
    parts = [plot(_figure(chart, shown), name)] if len(shown) else []
    parts.append(_note(chart))
    if left:
        parts.append(f"<p>not shown, because not measured: {escape(', '.join(left))}</p>")
    return "".join(parts)


def script() -> str:
    """Plotly's own script, gzip in base64: 2 MB instead of 5. The page's script unpacks it."""
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    packed = b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()
    return (
        f"<!-- plotly.js v{get_plotlyjs_version()}, MIT license, github.com/plotly/plotly.js -->\n"
        f'<script type="application/gzip" id="plotly-packed">{packed}</script>\n'
    )


def _note(chart: Chart) -> str:
    return f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""


def _split(chart: Chart) -> tuple[Table, list[str]]:
    """The rows that can be drawn, and the names of the others."""
    drawn = [not (is_missing(x) or is_missing(y)) for x, y in zip(chart.frame[chart.x], chart.frame[chart.y])]
    names = [part for part in (chart.group, chart.label or chart.x) if part]
    left = [
        ", ".join(dict.fromkeys(str(row[name]) for name in names))
        for row in chart.frame.where(not whole for whole in drawn).records()
    ]
    return chart.frame.where(drawn), left


def _figure(chart: Chart, frame: Table) -> Any:
    from plotly import graph_objects

    figure = graph_objects.Figure(layout=layout())
    groups = frame.groups(chart.group) if chart.group else {"": frame}
    for title, rows in groups.items():
        figure.add_trace(_trace(graph_objects, chart, rows, str(title)))
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zerolinecolor": "rgba(128,128,128,.5)"}
    kind = "category" if chart.kind == "bar" else "log" if chart.log_x else "-"
    figure.update_xaxes(type=kind, **_axis(chart, chart.x), **grid)
    figure.update_yaxes(type="log" if chart.log_y else "-", **_axis(chart, chart.y), **grid)
    figure.update_layout(barmode="group", showlegend=chart.group is not None, hovermode="closest")
    if chart.kind == "area":
        _point_at_all(figure, chart, rows)
    return figure


def _point_at_all(figure: Any, chart: Chart, top: Table) -> None:
    """One box for all areas at a place; the `hover` text is the same for all, so the top one shows it."""
    figure.update_layout(hovermode="x unified")
    figure.update_traces(hovertemplate=f"%{{y:,.2f}} {plain(chart.y)}")
    if chart.hover:
        figure.data[-1].customdata = pointed(chart, top)
        figure.data[-1].hovertemplate = f"%{{y:,.2f}} {plain(chart.y)}<br>%{{customdata}}"


def _axis(chart: Chart, column: str) -> dict[str, Any]:
    style = "SI" if quantity(column).unit in _SCALED else "power"
    return {"title": {"text": plain(column)}, "exponentformat": style}


def _trace(graph_objects: Any, chart: Chart, rows: Table, title: str) -> Any:
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


def _errors(chart: Chart, rows: Table) -> dict[str, Any] | None:
    if chart.low is None or chart.high is None:
        return None
    ends = list(zip(rows[chart.low], rows[chart.y], rows[chart.high]))
    above = [0.0 if is_missing(high) else float(high - middle) for _, middle, high in ends]
    below = [0.0 if is_missing(low) else float(middle - low) for low, middle, _ in ends]
    return {
        "type": "data",
        "symmetric": False,
        "array": above,
        "arrayminus": below,
        "color": "#888",
    }
