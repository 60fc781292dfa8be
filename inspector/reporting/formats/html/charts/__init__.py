"""The charts of a full HTML page, drawn here as SVG and HTML. One file a kind of chart: `draw(chart, name)`
gives the picture, "" where there is nothing to draw; its `SCRIPT` and its `STYLE`, if any, go into
the page."""

from __future__ import annotations

from html import escape
from importlib import import_module
from pathlib import Path
from types import ModuleType

from inspector.reporting.parts import Chart
from inspector.reporting.registry import is_missing

_HERE = Path(__file__).parent


def html(chart: Chart, name: str) -> str:
    """One chart as a piece of a page, without its title: the same chart gives the same text."""
    picture = _kind(chart.kind).draw(chart, name)
    note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
    return picture + note + _missing(chart)


def script(kinds: set[str]) -> str:
    """The scripts of these kinds of charts, each once."""
    names = dict.fromkeys(["charts.js", *(getattr(_kind(kind), "SCRIPT", "") for kind in sorted(kinds))])
    return "".join(f"<script>\n{_file(name)}</script>\n" for name in names if name)


def style(kinds: set[str]) -> str:
    """The styles of these kinds of charts."""
    names = dict.fromkeys(["charts.css", *(getattr(_kind(kind), "STYLE", "") for kind in sorted(kinds))])
    return "".join(_file(name) for name in names if name)


def _kind(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _missing(chart: Chart) -> str:
    """The names of the rows that were not measured: nothing is left out in silence."""
    if chart.kind not in ("bar", "line", "scatter"):
        return ""
    frame, names = chart.frame, [column for column in (chart.group, chart.label or chart.x) if column]
    left = [
        ", ".join(str(row[name]) for name in names if not is_missing(row[name]))
        for row in frame.records()
        if is_missing(row[chart.y]) or is_missing(row[chart.x])
    ]
    if not left:
        return ""
    return f'<p class="note">Not shown, because not measured: {escape("; ".join(left))}</p>'
