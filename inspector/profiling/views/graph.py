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
        self.looks: dict[int, list[tuple[int, Shape]]] = defaultdict(list)
        self.passed: dict[int, Shape] = {}
        for index, op in enumerate(trace.ops[:end]):
            for spec in op.inputs:  # a view of it needs an operator
                self.passed.setdefault(spec.storage, spec.shape)
            for spec in op.outputs:
                self.looks[spec.storage].append((index, spec.shape))
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
            if not is_view(op):
                self._add(owner, index, Node("", "", index, index + 1, (op.group or op.name,)))
        for number in self.runs:
            at = self.place.get((self.runs[number].caller, ~number))
            if at is not None and any(node.path for node in self.scopes[number].nodes):
                self.scopes[self.runs[number].caller].nodes[at].inside = self.scopes[number]

    def _add(self, scope: int, key: int, node: Node) -> None:
        self.place[scope, key] = len(self.scopes[scope].nodes)
        self.scopes[scope].nodes.append(node)

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
        if to and shared == certain and made != ways[0]:
            self.scopes[to[shared][0]].unclear += 1
            return
        shape = self.passed.get(read.tensor.storage, ())
        if not to:
            shared = -1
        elif made:
            shape = self._left(read.tensor, *made[shared])
            self._wire(read.tensor, shape, to[shared][0], made[shared][1], to[shared][1])
        for scope, node in made[shared + 1 :]:
            self._wire(read.tensor, self._left(read.tensor, scope, node), scope, node, OUT)
        if open_:
            self.scopes[ways[0][certain][0]].unclear += 1
        for scope, node in to[shared + 1 if made else 0 :]:
            self._wire(read.tensor, shape, scope, IN, node)

    def _left(self, tensor: Tensor, scope: int, node: int) -> Shape:
        """The shape in which a tensor leaves a node that made it: that of the last look at it there."""
        end = self.scopes[scope].nodes[node].end
        looks = self.looks[tensor.storage]
        return looks[bisect_left(looks, (end,)) - 1][1]

    def _wire(self, tensor: Tensor, shape: Shape, scope: int, source: int, target: int) -> None:
        wire = self.wires.get((scope, tensor, source))
        if wire is None:
            wire = self.wires[scope, tensor, source] = Wire(source, shape)
            self.scopes[scope].wires.append(wire)
        wire.targets.add(target)


def _shared(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
    """How many nodes two ways begin with together."""
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
