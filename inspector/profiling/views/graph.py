"""The architecture: the calls of modules as nested nodes, and the tensors that flow between them.

Each call of a module, and the model itself, is a scope: what it calls and the operators that it runs itself
are nodes in it, in the order in which they ran. An edge goes from the node that made a tensor to a node of
the same scope that takes it; the scope's own inputs and outputs are nodes, too. Edges come from the storages
of the trace (see `flow`): a tensor whose maker is not certain has none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict

from inspector.profiling.views.flow import INPUT, LEFT, Read, Tensor, is_view, reads
from inspector.profiling.views.folding import IN, OUT, Node, Scope, Shape, Wire, folded
from inspector.tracing.record import Trace

WHOLE = ("scaled_dot_product_attention",)
"""Functions that are one node, whatever operators they run."""


def graph(trace: Trace) -> Scope | None:
    """The inside of the model, in its forward; None for a record without the calls of modules."""
    end = next((i for i, op in enumerate(trace.ops) if op.phase == "backward"), len(trace.ops))
    if not any(run.caller == -1 and run.start < end for run in trace.runs):
        return None
    tree = _Tree(trace, end)
    for read in reads(trace, end):
        tree.connect(read)
    whole = tree.scopes[-1]
    if len(whole.nodes) == 1 and whole.nodes[0].inside is not None and not whole.nodes[0].path:
        whole = whole.nodes[0].inside  # the model was called, and nothing else ran
    return folded(whole, trace)


class _Tree:
    """The scopes of a trace while they are connected, each told by the index of its run; -1 is outside."""

    def __init__(self, trace: Trace, end: int) -> None:
        self.trace, self.end = trace, end
        self.runs = {i: run for i, run in enumerate(trace.runs) if run.start < min(run.end, end)}
        self.owner = [-1] * end
        for index, run in self.runs.items():
            self.owner[run.start : run.end] = [index] * (min(run.end, end) - run.start)
        self.scopes: dict[int, Scope] = defaultdict(Scope)
        self.place: dict[tuple[int, int], int] = {}
        self.wires: dict[tuple[int, Tensor, int], Wire] = {}
        self.taken: dict[int, list[tuple[int, Shape]]] = defaultdict(list)
        self.given: dict[int, list[tuple[int, Shape]]] = defaultdict(list)
        for index, op in enumerate(trace.ops[:end]):
            for specs, seen in ((op.inputs, self.taken), (op.outputs, self.given)):
                for spec in specs:
                    seen[spec.storage].append((index, spec.shape))
        self._nodes()

    def _nodes(self) -> None:
        types = {module.path: module.type for module in self.trace.modules}
        begun: dict[int, list[int]] = defaultdict(list)
        for index, run in self.runs.items():
            begun[run.start].append(index)
        for index in range(self.end):
            for number in begun.get(index, ()):
                run = self.runs[number]
                if all(is_view(op) for op in self.trace.ops[run.start : min(run.end, self.end)]):
                    continue  # Flatten: what it returns is what it got
                node = Node(run.path, types.get(run.path, ""), run.start, min(run.end, self.end))
                self._add(run.caller, ~number, node)
            op, owner = self.trace.ops[index], self.owner[index]
            if op.group in WHOLE or not is_view(op):
                self._add_operator(owner, index, op.group or op.name)
        for number in self.runs:
            at = self.place.get((self.runs[number].caller, ~number))
            if at is not None and any(node.path for node in self.scopes[number].nodes):
                self.scopes[self.runs[number].caller].nodes[at].inside = self.scopes[number]

    def _add(self, scope: int, key: int, node: Node) -> None:
        self.place[scope, key] = len(self.scopes[scope].nodes)
        self.scopes[scope].nodes.append(node)

    def _add_operator(self, scope: int, index: int, name: str) -> None:
        """An operator of a scope's own; those of a function that torch takes apart are one node."""
        before = self.scopes[scope].nodes[-1:]
        if name in WHOLE and before and before[0].operators == (name,):
            before[0].end = index + 1
            self.place[scope, index] = len(self.scopes[scope].nodes) - 1
        else:
            self._add(scope, index, Node("", "", index, index + 1, (name,)))

    def _way(self, op: int) -> list[tuple[int, int]]:
        """Each scope around an operator, the outermost first, and the node of it that the operator is in."""
        if op in (INPUT, LEFT):
            return []
        scope, key = self.owner[op], op
        way = [(scope, self.place[scope, key])]
        while scope != -1:
            scope, key = self.runs[scope].caller, ~scope
            way.append((scope, self.place[scope, key]))
        return way[::-1]

    def connect(self, read: Read) -> None:
        """Draw the tensor through every scope between its maker and its reader."""
        to = self._way(read.reader)
        ways = [self._way(writer) for writer in read.tensor.writers]
        certain = min(_shared(ways[0], way) for way in ways)  # so far all writers are in the same nodes
        shared = _shared(ways[0][:certain], to)
        made, open_ = ways[0][:certain], certain < max(map(len, ways))
        if to and shared == len(to):  # inside one node
            return
        if to and shared == certain and made != ways[0]:
            self.scopes[to[shared][0]].unclear += 1
            return
        arrives = None
        if not to:
            shared = -1
        elif made:
            arrives = self._wire(read.tensor, to[shared][0], made[shared][1], to[shared][1])
        for scope, node in made[shared + 1 :]:
            self._wire(read.tensor, scope, node, OUT, arrives)
        if open_:
            self.scopes[ways[0][certain][0]].unclear += 1
        for scope, node in to[shared + 1 if made else 0 :]:
            self._wire(read.tensor, scope, IN, node)

    def _wire(
        self, tensor: Tensor, scope: int, source: int, target: int, arrives: Shape | None = None
    ) -> Shape | None:
        """Draw an edge, and return its shape. That of a tensor which leaves the scope is the one in which it
        `arrives` outside, if the source gave it that."""
        wire = self.wires.get((scope, tensor, source))
        if wire is None:
            wire = self.wires[scope, tensor, source] = Wire(source)
            self.scopes[scope].wires.append(wire)
        if target not in wire.targets:
            nodes = self.scopes[scope].nodes
            if target == OUT:
                wire.targets[OUT] = self._given(tensor, nodes[source].end, arrives)
            else:  # the first look at it, by a view or not, is at what was passed
                seen = self.taken[tensor.storage]
                wire.targets[target] = seen[bisect_left(seen, (nodes[target].start,))][1]
        return wire.targets[target]

    def _given(self, tensor: Tensor, end: int, arrives: Shape | None) -> Shape | None:
        """The shape in which a tensor is given out by what ends before the operator `end`; None where it had
        several there, and which one was returned is not known."""
        seen = self.given[tensor.storage]
        first, last = (bisect_left(seen, (index,)) for index in (max(tensor.writers), end))
        shapes = {shape for _, shape in seen[first:last]}
        if arrives in shapes:
            return arrives
        return shapes.pop() if len(shapes) == 1 else None


def _shared(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
    """How many nodes two ways begin with together."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
