"""The architecture: nested boxes in the order in which they run, and the tensors between them.

A scope is a grid: its boxes below each other, a lane at their right for each tensor that skips some of them.
The browser lays it out, so that opening a box moves the lines too, without a script.
"""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import Any

from inspector.reporting.formats.html.charts.colors import css, legend, order
from inspector.reporting.numbers import si
from inspector.reporting.parts import Chart

STYLE = "graph.css"
LANES = 12
"""Tensors side by side that are drawn at most; the page says how many are not."""
OPEN = 24
"""Boxes that are open at first, about."""
Row = dict[str, Any]


def draw(chart: Chart, name: str) -> str:
    """The boxes of the model; nothing where it has none."""
    if not len(chart.frame) or chart.edges is None:
        return ""
    names = order({kind for kind in chart.frame["kind"] if kind})
    return (
        f'<div class="graph" id="{name}">{legend(names)}'
        f'<div class="scroll frame">{_Graph(chart, names).scope(None, "")}</div></div>'
    )


class _Graph:
    def __init__(self, chart: Chart, names: list[str]) -> None:
        self.names = names
        self.nodes: dict[int | None, list[Row]] = defaultdict(list)
        self.edges: dict[int | None, list[Row]] = defaultdict(list)
        for node in chart.frame.records():
            self.nodes[node["scope"]].append(node)
        assert chart.edges is not None
        for edge in chart.edges.records():
            self.edges[edge["scope"]].append(edge)
        self.open = self._opened()

    def _opened(self) -> set[int]:
        """The boxes that are open at first: the first one, the first in it, and so on; then from the outside
        in, as many as fit a look."""
        first: list[int] = []
        scope: int | None = None
        while inner := [node["node"] for node in self.nodes[scope] if node["node"] in self.nodes]:
            scope = inner[0]
            first.append(inner[0])
        opened, shown = set(first), sum(len(self.nodes[number]) for number in [None, *first])
        queue = list(self.nodes[None])
        while queue:
            number = queue.pop(0)["node"]
            inside = self.nodes.get(number, [])
            if number in opened or (inside and shown + len(inside) <= OPEN):
                shown += 0 if number in opened else len(inside)
                opened.add(number)
                queue += inside
        return opened

    def scope(self, number: int | None, around: str) -> str:
        """The inside of a box."""
        nodes = self.nodes[number]
        rows = {node["node"]: place for place, node in enumerate(nodes, 1)}
        tensors: dict[int, list[Row]] = defaultdict(list)
        for edge in self.edges[number]:
            tensors[edge["tensor"]].append(edge)
        wires = _bundled([_Wire(edges, rows, len(nodes) + 1) for edges in tensors.values()])
        lanes, left = _lanes(wires)
        parts = [_port("in", 0)] if any(wire.source == 0 for wire in wires) else []
        told = _told(wires, ["input", *(_short(node, around) for node in nodes), "output"])
        parts += [self._node(node, place, around, told[place]) for place, node in enumerate(nodes, 1)]
        if any(len(nodes) + 1 in wire.targets for wire in wires):
            parts.append(_port("out", len(nodes) + 1))
        steps: dict[int, list[str]] = defaultdict(list)
        for wire in wires:
            if wire.source + 1 in wire.targets:
                steps[wire.source].append(wire.targets[wire.source + 1])
        parts += [_step(place, shapes) for place, shapes in steps.items()]
        parts += [_rail(wire, lane) for wire, lane in lanes]
        width = max((lane for _, lane in lanes), default=-1) + 1
        note = f'<p class="note">{left} more tensors skip boxes here.</p>' if left else ""
        return (
            f'<div class="scope" style="--lanes:{width};--rows:{len(nodes) + 2}">{"".join(parts)}</div>{note}'
        )

    def _node(self, node: Row, place: int, around: str, told: str) -> str:
        inside = node["node"] in self.nodes
        head = _head(node, around, self.names) + told
        place_ = f' style="grid-row:{4 * place + 1}/span 3"'
        if not inside:
            kind = "node op" if node["module"] is None else "node"
            return f'<div class="{kind}"{place_}><div class="head">{head}</div></div>'
        opened = " open" if node["node"] in self.open else ""
        unclear = ""
        if node["unclear"]:
            unclear = f'<p class="note">{_unclear(node["unclear"])}</p>'
        return (
            f'<details class="node"{opened}{place_}><summary class="head">{head}</summary>'
            f"{self.scope(node['node'], node['module'])}{unclear}</details>"
        )


def _unclear(count: int) -> str:
    """What is left out: each is one box that reads a tensor of which several others wrote parts."""
    what = "reading" if count == 1 else "readings"
    return f"{count} {what} of tensors that several boxes here wrote in pieces: not drawn."


class _Wire:
    """A tensor in a scope: the row of its source, 0 for what comes in, and of each target with its shape."""

    def __init__(self, edges: list[Row], rows: dict[int, int], last: int) -> None:
        source = edges[0]["source"]
        self.source = 0 if source is None else rows[source]
        places = [(last if edge["target"] is None else rows[edge["target"]], edge) for edge in edges]
        self.targets = {
            place: edge["shape"] or "" for place, edge in sorted(places, key=lambda pair: pair[0])
        }
        self.far = [target for target in self.targets if target != self.source + 1]

    @property
    def shape(self) -> str:
        """The shapes in which the tensor arrives at the end of its lane."""
        return ", ".join(dict.fromkeys(filter(None, (self.targets[target] for target in self.far))))


def _bundled(wires: list[_Wire]) -> list[_Wire]:
    """Tensors that go the same ways are one line."""
    bundles: dict[tuple[int, ...], list[_Wire]] = defaultdict(list)
    for wire in wires:
        way = wire.source, *wire.targets
        bundles[way].append(wire)
    for first, *others in bundles.values():
        for target in first.targets if others else ():
            shapes = dict.fromkeys(wire.targets[target] for wire in (first, *others) if wire.targets[target])
            first.targets[target] = f"{len(others) + 1} tensors: {', '.join(shapes)}".removesuffix(": ")
    return [first for first, *_ in bundles.values()]


def _lanes(wires: list[_Wire]) -> tuple[list[tuple[_Wire, int]], int]:
    """A lane for each tensor that skips boxes, the short ones next to the boxes; and how many found none."""
    taken: list[list[range]] = [[] for _ in range(LANES)]
    placed, left = [], 0
    for wire in sorted((w for w in wires if w.far), key=lambda w: (w.far[-1] - w.source, w.source)):
        span = range(wire.source, wire.far[-1])
        free = (lane for lane, spans in enumerate(taken) if not any(_meet(span, other) for other in spans))
        lane = next(free, None)
        if lane is None:
            left += 1
            continue
        taken[lane].append(span)
        placed.append((wire, lane))
    return placed, left


def _meet(one: range, other: range) -> bool:
    return one.start < other.stop and other.start < one.stop


def _told(wires: list[_Wire], names: list[str]) -> dict[int, str]:
    """For who does not see the lines: what each box takes."""
    takes: dict[int, list[str]] = defaultdict(list)
    for wire in wires:
        for target, shape in wire.targets.items():
            takes[target].append(f"{shape} from {names[wire.source]}".strip())
    told = {place: escape(", ".join(texts)) for place, texts in takes.items()}
    return defaultdict(str, {n: f'<span class="unseen">takes {text}</span>' for n, text in told.items()})


def _short(node: Row, around: str) -> str:
    """The name of a box inside the one at `around`."""
    path = node["module"]
    if path is None:
        return str(node["operators"])
    cut = len(around) + 1 if around and path.startswith(f"{around}.") else 0
    if not path:
        return "the model"
    last = f" … {node['last'][cut:]}" if node["times"] > 1 else ""
    return path[cut:] + last


def _head(node: Row, around: str, names: list[str]) -> str:
    swatch = f'<i class="{css(node["kind"], names)}"></i>' if node["kind"] else ""
    times = f' <b class="times">x {node["times"]}</b>' if node["times"] > 1 else ""
    type_ = f" <small>{escape(node['type'])}</small>" if node["type"] else ""
    return (
        f'{swatch}<span class="name">{escape(_short(node, around))}</span>{times}{type_}'
        f'<span class="counts">{_numbers(node)}</span>'
    )


def _numbers(node: Row) -> str:
    each = " each" if node["times"] > 1 else ""
    parts = []
    if node["macs"] is None:
        parts.append("unknown MACs")
    elif node["macs"]:
        parts.append(f"{si(node['macs'])}{'' if si(node['macs'])[-1].isalpha() else ' '}MACs{each}")
    if node["params"]:
        parts.append(f"{si(node['params'])} params{each}")
    return ", ".join(parts)


def _port(which: str, place: int) -> str:
    word = {"in": "input", "out": "output"}[which]
    return f'<div class="port" style="grid-row:{4 * place + 1}/span 3">{word}</div>'


def _step(place: int, shapes: list[str]) -> str:
    text = escape(", ".join(filter(None, shapes)))
    return f'<div class="step" style="grid-row:{4 * place + 4}">{text}</div>'


def _rail(wire: _Wire, lane: int) -> str:
    """From the foot of the box that made the tensor, down a lane, to the head of each that takes it."""
    column, foot, last = lane + 2, 4 * wire.source + 3, 4 * wire.far[-1] + 2
    stubs = "".join(
        f'<i class="stub{kind}" style="grid-row:{row};grid-column:2/{column + 1}"></i>'
        for kind, row in [(" from", foot), *((" to", 4 * target + 2) for target in wire.far)]
    )
    return (
        f'<div class="rail" style="grid-row:{foot}/{last};grid-column:{column}" title="{escape(wire.shape)}">'
        f"<small>{escape(wire.shape)}</small></div>{stubs}"
    )
