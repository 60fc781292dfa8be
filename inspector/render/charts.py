"""The charts of a full HTML page, drawn by plotly; its script is in the page, once."""

from __future__ import annotations

import hashlib
from html import escape
from typing import TYPE_CHECKING, Any

from inspector.report import Chart

if TYPE_CHECKING:
    import pandas as pd

_LAYOUT: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": "#888", "family": "system-ui, sans-serif"},
    "margin": {"l": 60, "r": 20, "t": 20, "b": 60},
    "height": 380,
    "legend": {"orientation": "h", "y": 1.12},
}


def html(charts: list[Chart]) -> str:
    """All charts as one piece of a page; the same charts give the same text."""
    parts, drawn = [], False
    for number, chart in enumerate(charts):
        shown, left = _split(chart)
        parts.append(f"<h2>{escape(chart.title)}</h2>")
        if len(shown):
            parts.append(_figure(chart, shown, f"chart-{number}-{_digest(chart)}", with_script=not drawn))
            drawn = True
        if chart.note:
            parts.append(f"<p>{escape(chart.note)}</p>")
        if left:
            parts.append(f"<p>not shown, because not measured: {escape(', '.join(left))}</p>")
    return "\n".join(parts)


def _split(chart: Chart) -> tuple[pd.DataFrame, list[str]]:
    """The rows that can be drawn, and the names of the others."""
    known = chart.frame[[chart.x, chart.y]].notna().all(axis=1)
    names = [part for part in (chart.group, chart.label or chart.x) if part]
    left = [
        ", ".join(dict.fromkeys(str(row[name]) for name in names))
        for _, row in chart.frame[~known].iterrows()
    ]
    return chart.frame[known], left


def _figure(chart: Chart, frame: pd.DataFrame, name: str, with_script: bool) -> str:
    from plotly import graph_objects

    figure = graph_objects.Figure(layout=_LAYOUT)
    groups = frame.groupby(chart.group, sort=False) if chart.group else [("", frame)]
    for title, rows in groups:
        figure.add_trace(_trace(graph_objects, chart, rows, str(title)))
    grid = {"gridcolor": "rgba(128,128,128,.3)", "zerolinecolor": "rgba(128,128,128,.5)"}
    kind = "category" if chart.kind == "bar" else "log" if chart.log_x else "-"
    figure.update_xaxes(title=_plain(chart.x), type=kind, exponentformat="power", **grid)
    figure.update_yaxes(title=_plain(chart.y), type="log" if chart.log_y else "-", **grid)
    figure.update_layout(barmode="group", showlegend=chart.group is not None)
    script = "inline" if with_script else False
    text = figure.to_html(
        full_html=False, include_plotlyjs=script, div_id=name, config={"displaylogo": False}
    )
    return str(text)


def _trace(graph_objects: Any, chart: Chart, rows: pd.DataFrame, title: str) -> Any:
    common: dict[str, Any] = {
        "x": [_plain(value) for value in rows[chart.x]],
        "y": [float(value) for value in rows[chart.y]],
        "name": _plain(title),
        "error_y": _errors(chart, rows),
    }
    labels = [_plain(value) for value in rows[chart.label]] if chart.label else None
    if chart.kind == "bar":
        return graph_objects.Bar(**common, text=labels)
    mode = "lines" if chart.kind == "line" else "markers+text" if labels else "markers"
    return graph_objects.Scatter(**common, mode=mode, text=labels, textposition="top center")


def _errors(chart: Chart, rows: pd.DataFrame) -> dict[str, Any] | None:
    if chart.low is None or chart.high is None:
        return None
    middle = rows[chart.y].astype(float)
    above = (rows[chart.high].astype(float) - middle).fillna(0.0)
    below = (middle - rows[chart.low].astype(float)).fillna(0.0)
    return {"type": "data", "symmetric": False, "array": list(above), "arrayminus": list(below)}


def _plain(value: Any) -> Any:
    """Names as text: plotly reads a few HTML tags in them."""
    return value.replace("&", "&amp;").replace("<", "&lt;") if isinstance(value, str) else value


def _digest(chart: Chart) -> str:
    """Plotly's own names of charts are random."""
    return hashlib.sha256(chart.title.encode()).hexdigest()[:8]
