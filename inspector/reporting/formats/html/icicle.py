"""The module tree as areas, with a button for each number that the areas can stand for."""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from typing import Any

from inspector.reporting.formats.html.plots import COLORS, layout, plain, plot, pointed
from inspector.reporting.numbers import written
from inspector.reporting.parts import Chart
from inspector.reporting.registry import is_missing, quantity

GREY = "#66717f"


def html(chart: Chart, name: str) -> str:
    """Buttons, the total of the number chosen, and the figure. Values stand once in the page, as JSON."""
    if not chart.choices:
        return ""
    buttons = "".join(_button(chart, choice) for choice in chart.choices)
    values = {choice: [_number(value) for value in chart.frame[choice]] for choice in chart.choices}
    text = json.dumps(values, separators=(",", ":")).replace("<", "\\u003c")
    zoom = (
        f' <label for="{name}-zoom">Zoom to module</label>'
        f'<input id="{name}-zoom" class="zoom" list="{name}-paths" placeholder="the whole model"'
        f' autocomplete="off" spellcheck="false"><datalist id="{name}-paths"></datalist>'
    )
    return (
        f'<div class="tree"><div class="search"><div class="switch" role="group"'
        f' aria-label="area stands for">{buttons}</div>{zoom}</div>'
        f'<p class="whole" role="status">{escape(_whole(chart, chart.y))}</p>{_legend(chart)}'
        f'{plot(_figure(chart), name)}<script type="application/json" class="values">{text}</script></div>'
    )


def _button(chart: Chart, choice: str) -> str:
    pressed = "true" if choice == chart.y else "false"
    return (
        f'<button type="button" aria-pressed="{pressed}" data-choice="{escape(choice)}"'
        f' data-whole="{escape(_whole(chart, choice))}">{escape(choice)}</button>'
    )


def _whole(chart: Chart, choice: str) -> str:
    value = _number(chart.frame[choice][0])
    exact = f" ({value:,})" if isinstance(value, int) and value >= 1000 else ""
    return f"{choice}: {written(value, quantity(choice).form)}{exact} in all"


def _figure(chart: Chart) -> Any:
    from plotly import graph_objects

    frame = chart.frame
    assert chart.group is not None
    assert chart.label is not None
    figure = graph_objects.Figure(layout=layout(height=680, margin={"l": 0, "r": 0, "t": 24, "b": 0}))
    figure.add_trace(
        graph_objects.Icicle(
            ids=[_id(path) for path in frame[chart.x]],
            parents=["" if parent is None else _id(parent) for parent in frame[chart.group]],
            labels=[plain(label) for label in frame[chart.label]],
            values=[_number(value) for value in frame[chart.y]],
            branchvalues="total",
            sort=False,
            customdata=pointed(chart, frame),
            hovertemplate="%{customdata}<br>%{percentRoot:.2%} of the model<extra></extra>",
            texttemplate="%{label}  %{percentRoot:.1%}",
            textposition="middle left",
            textfont={"color": "#fff"},
            tiling={"orientation": "h", "pad": 1},
            pathbar={"thickness": 24},
            leaf={"opacity": 1},
            marker={"colors": _painted(chart), "line": {"width": 0}},
        )
    )
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})
    return figure


def _colors(chart: Chart) -> dict[str, str]:
    """A colour for each value of the colour column, the most frequent first; the rest stays grey."""
    if chart.color is None:
        return {}
    counts = Counter(kind for kind in chart.frame[chart.color] if not is_missing(kind))
    return dict(zip((kind for kind, _ in counts.most_common()), COLORS))


def _legend(chart: Chart) -> str:
    items = "".join(
        f'<li><i style="background:{color}"></i>{escape(name)}</li>' for name, color in _colors(chart).items()
    )
    return f'<ul class="legend">{items}<li><i style="background:{GREY}"></i>other</li></ul>' if items else ""


def _painted(chart: Chart) -> list[str]:
    colors = _colors(chart)
    return [colors.get(name, GREY) for name in chart.frame[chart.color or chart.x]]


def _id(path: str) -> str:
    """Plotly takes the empty id for none at all."""
    return path or "."


def _number(value: Any) -> int | float:
    number = value.item() if hasattr(value, "item") else value
    return number if isinstance(number, int) else float(number)
