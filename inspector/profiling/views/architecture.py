"""The graph of an architecture as two tables: its nodes and its edges."""

from __future__ import annotations

from itertools import count
from typing import NamedTuple

from inspector.profiling.views.folding import IN, OUT, Node, Scope, Shape
from inspector.profiling.views.graph import graph
from inspector.profiling.views.kinds import kinds
from inspector.profiling.views.modules import modules_frame
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace

NODES = (
    "node", "scope", "module", "type", "kind", "operators", "times", "last", "macs", "params", "unclear",
)  # fmt: skip
EDGES = ("scope", "tensor", "source", "target", "shape")


class Architecture(NamedTuple):
    """The two tables, and how many tensors pass between the nodes of the model itself without an edge."""

    nodes: Table
    edges: Table
    unclear: int


def architecture_frames(trace: Trace) -> Architecture | None:
    """A row for each node, in the order in which they ran: its number, the node that it is in (None: the
    model itself), the path and type of the module that was called or the `operators` of the scope's own; how
    many equal blocks it stands for (`times`, up to the one at `last`), the MACs of one of them, its
    parameters, and how many readings inside have no edge, because several wrote the tensor in pieces. A row
    for each edge: scope, number of the tensor in it, source and target (None: the scope's own input, output),
    and the shape in which the target takes it (None: not known).

    None for a record without the calls of modules.
    """
    whole = graph(trace)
    if whole is None:
        return None
    return _Frames(trace, whole).tables()


class _Frames:
    def __init__(self, trace: Trace, whole: Scope) -> None:
        self.trace, self.whole, self.kinds = trace, whole, kinds(trace)
        modules = modules_frame(trace)
        self.params = dict(zip(modules["path"], modules["params"]))
        self.numbers = count()
        self.nodes: list[tuple[object, ...]] = []
        self.edges: list[tuple[object, ...]] = []

    def tables(self) -> Architecture:
        self._scope(self.whole, None)
        return Architecture(Table.of(self.nodes, NODES), Table.of(self.edges, EDGES), self.whole.unclear)

    def _scope(self, scope: Scope, number: int | None) -> None:
        numbers: dict[int, int | None] = {IN: None, OUT: None}
        for place, node in enumerate(scope.nodes):
            numbers[place] = inner = next(self.numbers)
            self.nodes.append(self._node(node, inner, number))
            if node.inside is not None:
                self._scope(node.inside, inner)
        self.edges += [
            (number, tensor, numbers[wire.source], numbers[target], _written(wire.targets[target]))
            for tensor, wire in enumerate(scope.wires)
            for target in sorted(wire.targets, key=lambda target: (target == OUT, target))
        ]

    def _node(self, node: Node, number: int, scope: int | None) -> tuple[object, ...]:
        ops = self.trace.ops[node.start : node.end]
        macs = None if any(op.macs is None for op in ops) else sum(op.macs or 0 for op in ops)
        own = bool(node.operators)
        return (
            number,
            scope,
            None if own else node.path,
            node.type,
            "" if own else self.kinds.get(node.path, ""),
            ", ".join(name.rstrip("_") for name in node.operators),
            node.times,
            node.last,
            macs,
            None if own else self.params.get(node.path),
            node.inside.unclear if node.inside else 0,
        )


def _written(shape: Shape | None) -> str | None:
    if shape is None:
        return None
    return "x".join(map(str, shape)) or "scalar"
