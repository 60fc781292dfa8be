"""The graph of an architecture as people read it: one node for a chain of operators or for equal blocks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from inspector.tracing.record import Trace

Shape = tuple[int, ...]
IN, OUT = -1, -2
"""In the place of a node: what comes into a scope, and what leaves it."""


@dataclass
class Node:
    """What a scope runs: the call of a module at `path`, or operators of its own, by name. `start` and `end`
    are indices of operators. `times`: this and the following nodes of its scope are so many equal blocks, of
    which the others are left out, `last` the path of the last of them."""

    path: str
    type: str
    start: int
    end: int
    operators: tuple[str, ...] = ()
    inside: Scope | None = None
    times: int = 1
    last: str = ""


@dataclass
class Wire:
    """A tensor inside a scope: the node that made it (or IN), and the nodes that take it (or OUT), each with
    the shape in which it does; None where that is not known."""

    source: int
    targets: dict[int, Shape | None] = field(default_factory=dict)


@dataclass
class Scope:
    """The inside of a call. Nodes are told by their place in `nodes`; `unclear` counts the readings of
    tensors that pass between its nodes and have no edge, because several wrote them in pieces."""

    nodes: list[Node] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    unclear: int = 0


def folded(scope: Scope, trace: Trace) -> Scope:
    """The scope, and everything inside, with chains and equal blocks as one node each."""
    inner = [replace(n, inside=folded(n.inside, trace)) if n.inside else n for n in scope.nodes]
    chained = _joined(replace(scope, nodes=inner), _chains(replace(scope, nodes=inner)))
    return _joined(chained, _blocks(chained, trace))


def _chains(scope: Scope) -> list[range]:
    """The nodes in groups: operators of the scope itself of which each reads the one before and nothing else,
    and nobody else does."""
    into, out = _ends(scope)
    groups: list[range] = []
    for place, node in enumerate(scope.nodes):
        before = scope.nodes[place - 1] if place else None
        chain = before is not None and bool(node.operators) and bool(before.operators)
        if chain and set(into[place]) == {place - 1} and out[place - 1] == {place}:
            groups[-1] = range(groups[-1].start, place + 1)
        else:
            groups.append(range(place, place + 1))
    return groups


def _blocks(scope: Scope, trace: Trace) -> list[range]:
    """The nodes in groups: calls of equal modules, each of which reads the one before; what else they read is
    the same tensors for all, and only the last is read by other nodes."""
    into, out = _ends(scope)
    signs = [_signature(node, trace) for node in scope.nodes]
    groups: list[range] = []
    for place, node in enumerate(scope.nodes):
        equal = place and node.path and signs[place] == signs[place - 1] and out[place - 1] - {OUT} == {place}
        if equal and place - 1 in into[place] and _alike(into, groups[-1].start, place):
            groups[-1] = range(groups[-1].start, place + 1)
        else:
            groups.append(range(place, place + 1))
    return groups


def _alike(into: list[dict[int, frozenset[int]]], first: int, place: int) -> bool:
    """Whether a node reads, besides the one before, what the others from `first` on read."""
    besides, second = (
        {source: wires for source, wires in into[at].items() if source != at - 1} for at in (place, first + 1)
    )
    start = {source: into[first].get(source, frozenset()) for source in besides}
    return besides == second and all(wires <= start[source] for source, wires in besides.items())


def _ends(scope: Scope) -> tuple[list[dict[int, frozenset[int]]], list[set[int]]]:
    """For each node: the nodes that it reads, each with the wires, and the nodes that read it."""
    into: list[dict[int, frozenset[int]]] = [{} for _ in scope.nodes]
    out: list[set[int]] = [set() for _ in scope.nodes]
    for number, wire in enumerate(scope.wires):
        for target in wire.targets:
            if target >= 0:
                into[target][wire.source] = into[target].get(wire.source, frozenset()) | {number}
            if wire.source >= 0:
                out[wire.source].add(target)
    return into, out


def _signature(node: Node, trace: Trace) -> Any:
    """Equal for two nodes that do the same."""
    if node.inside is None:
        return node.type, tuple(
            (op.name, *(tuple(spec.shape for spec in specs) for specs in (op.inputs, op.outputs)))
            for op in trace.ops[node.start : node.end]
        )
    nodes = tuple((inner.times, _signature(inner, trace)) for inner in node.inside.nodes)
    wires = tuple((wire.source, tuple(sorted(wire.targets.items()))) for wire in node.inside.wires)
    return node.type, nodes, wires, node.inside.unclear


def _joined(scope: Scope, groups: list[range]) -> Scope:
    """The scope with each group of nodes as one, and no wires inside a group."""
    place = {old: new for new, group in enumerate(groups) for old in group} | {IN: IN, OUT: OUT}
    nodes = [_one([scope.nodes[old] for old in group]) for group in groups]
    wires: list[Wire] = []
    for wire in scope.wires:
        source = place[wire.source]
        joined = Wire(source)
        for target, shape in wire.targets.items():
            if place[target] != source:
                joined.targets.setdefault(place[target], shape)
        again = source >= 0 and nodes[source].times > 1 and joined in wires  # what each block gives out
        if joined.targets and not again:
            wires.append(joined)
    return Scope(nodes, wires, scope.unclear)


def _one(nodes: list[Node]) -> Node:
    first, last = nodes[0], nodes[-1]
    if len(nodes) == 1:
        return first
    if first.operators:
        names = tuple(name for node in nodes for name in node.operators)
        return replace(first, end=last.end, operators=names)
    return replace(first, times=len(nodes), last=last.path)
