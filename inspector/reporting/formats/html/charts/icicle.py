"""The module tree as areas: the script draws what the reader opened, by the number that they chose."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from inspector.reporting.formats.html.charts.colors import css, legend, order
from inspector.reporting.numbers import written
from inspector.reporting.parts import Chart
from inspector.reporting.registry import is_missing, quantity

SCRIPT = "icicle.js"
STYLE = "icicle.css"
BOTH = "{}, base to head"
"""A column of texts, for two sides in one tree: an area is neither's number there."""


def draw(chart: Chart, name: str) -> str:
    """Buttons, the total of the number chosen, a search, and the place that the script draws in."""
    if not chart.choices:
        return ""
    buttons = "".join(_button(chart, choice) for choice in chart.choices)
    names = order({kind for choice in chart.choices for kind in _drawn(chart, choice)})
    return (
        f'<div class="tree" id="{name}"><div class="bar"><div class="switch" role="group"'
        f' aria-label="the area stands for">{buttons}</div><div class="find"><label for="{name}-find">Find'
        f' a module</label><input id="{name}-find" type="search" autocomplete="off" spellcheck="false">'
        f'<output for="{name}-find"></output></div></div>'
        f'<p class="whole" role="status">{escape(_whole(chart, chart.y))}</p>{legend(names)}'
        f'<nav class="way" aria-label="opened module"></nav>'
        f'<div class="boxes" role="group" aria-label="{escape(chart.title)}"></div>'
        f'<p class="detail" aria-live="polite">Point at a box: its numbers.</p>'
        f'<script type="application/json" class="values">{_data(chart, names)}</script></div>'
    )


def _data(chart: Chart, names: list[str]) -> str:
    frame = chart.frame
    paths = {path: place for place, path in enumerate(frame[chart.x])}
    assert chart.group is not None
    values = {
        "path": frame[chart.x],
        "parent": [-1 if parent is None else paths[parent] for parent in frame[chart.group]],
        "label": frame[chart.label or chart.x],
        "type": frame["type"],
        "color": {
            choice: [css(kind, names) if kind else "" for kind in _kinds(chart, choice)]
            for choice in chart.choices
        },
        "area": BOTH.format(chart.choices[0]) in frame,
        "values": {choice: [_number(value) for value in frame[choice]] for choice in chart.choices},
        "texts": {column: [_text(column, value) for value in frame[column]] for column in chart.hover},
    }
    return json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")


def _kinds(chart: Chart, choice: str) -> list[str]:
    """What the colour of each row stands for: perhaps something else for each number."""
    own = f"{chart.color} of {choice}"
    return chart.frame[own if own in chart.frame else chart.color or chart.x]


def _drawn(chart: Chart, choice: str) -> set[str]:
    """The colours of the rows that have an area."""
    pairs = zip(_kinds(chart, choice), chart.frame[choice])
    return {kind for kind, value in pairs if value and not is_missing(kind)}


def _text(column: str, value: Any) -> str:
    return "" if is_missing(value) and value is not None else written(value, quantity(column).form)


def _button(chart: Chart, choice: str) -> str:
    pressed = "true" if choice == chart.y else "false"
    return (
        f'<button type="button" aria-pressed="{pressed}" data-choice="{escape(choice)}"'
        f' data-whole="{escape(_whole(chart, choice))}">{escape(choice)}</button>'
    )


def _whole(chart: Chart, choice: str) -> str:
    if BOTH.format(choice) in chart.frame:
        return f"{choice}: {chart.frame[BOTH.format(choice)][0]}"
    value = _number(chart.frame[choice][0])
    exact = f" ({value:,})" if isinstance(value, int) and value >= 1000 else ""
    return f"{choice}: {written(value, quantity(choice).form)}{exact} in all"


def _number(value: Any) -> int | float:
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) else float(number)
