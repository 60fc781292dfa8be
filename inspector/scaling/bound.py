"""How long a step takes at least, and what of its communication no overlap can hide.

Time of a collective: every process of the group must receive what it does not have. Of a tensor of N bytes
over p processes, m of them in each node, a process receives N (p - 1) / p through its own link, and a node
N (p - m) / p through the m adapters of those processes; the longer of the two counts. An all-reduce is a
reduce-scatter and an all-gather, so twice that (no sums inside switches).

What is exposed for certain: collectives that the next operator waits for (tensor parallelism), the first
all-gather, before which nothing can be computed, and the reduction that follows the last operator of the
backward. All else may overlap with compute, so that a step takes no less than the compute with those, and
no less than all that passes one kind of link.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from inspector.core.devices import Device
from inspector.core.errors import InspectError
from inspector.core.links import Links
from inspector.profiling.roofline import roof
from inspector.profiling.views.bounds import Roof, bound
from inspector.scaling.communication import Collective
from inspector.tracing.capture.parallel import COMMUNICATION, GATHERED, HOST
from inspector.tracing.record import Op, Trace

_BESIDE = ("c10d.", "_c10d_functional", "fsdp.")
"""Operators that may run beside the computation, on streams of their own."""
INSIDE, BETWEEN = "inside a node", "between nodes"


@dataclass(frozen=True)
class Machine:
    """A device, its links in GB/s, and the devices in a node. `between` None: the rate is not known."""

    device: Device
    links: Links
    per_node: int
    nodes: int

    @staticmethod
    def of(device: Device, links: Links, nodes: tuple[int, int] | None, world_size: int) -> Machine:
        """Raises InspectError where the nodes do not hold the world."""
        count, per_node = nodes or (-(-world_size // 8), min(world_size, 8))
        if nodes is not None and count * per_node != world_size:
            raise InspectError(
                f"{count} nodes of {per_node} hold {count * per_node} ranks, but the mesh has {world_size}",
                "let the two agree",
            )
        return Machine(device, links, per_node, count)


@dataclass(frozen=True)
class Times:
    """Seconds of a step, all lower bounds: `compute` (with the optimizer), `exposed` communication, and all
    of it `inside` nodes and `between` them. `useful`: what the products of a forward take at the peak, three
    times (a backward has twice as many). `copies`: those between host and device, the busier way. None: a
    link's rate is not known."""

    compute: float
    exposed: float | None
    inside: float | None
    between: float | None
    useful: float | None
    unknown: int
    copies: float | None = 0.0

    @property
    def step(self) -> float | None:
        """Seconds that a step takes at least."""
        if self.exposed is None or self.inside is None or self.between is None or self.copies is None:
            return None
        return max(self.compute + self.exposed, self.inside, self.between, self.copies)

    @property
    def mfu(self) -> float | None:
        """Model FLOPs utilisation at most."""
        return None if self.step is None or self.useful is None else self.useful / self.step


def seconds(
    collective: Collective, machine: Machine, strides: Mapping[str, int], rank: int = 0
) -> tuple[str, float | None]:
    """Which kind of link a collective of `rank` uses, and how long it takes there at least; None where nobody
    knows that. `strides`: how far apart neighbours of each dimension are in the order of ranks."""
    size, stride = collective.size, strides.get(collective.over, 1)
    if collective.peer is not None:
        other = peer_of(collective, stride, rank)
        return hop(collective.nbytes if collective.kind == "send" else 0, rank, other, machine)
    here = max(1, min(size, machine.per_node // stride))
    place = INSIDE if here == size else BETWEEN
    if size == 1 or not collective.nbytes:
        return place, 0.0
    times = 2 if collective.kind == "all-reduce" else 1
    links = machine.links
    if collective.kind == "broadcast":
        own = entering = float(collective.nbytes)
    else:
        own = collective.nbytes * (size - 1) / size
        entering = collective.nbytes * (size - here) / size
    parts = []
    if here > 1:
        parts.append((own, links.inside, 1))
    if place == BETWEEN:
        parts.append((entering, links.between, here))
    if any(rate is None for _, rate, _ in parts):
        return place, None
    return place, max(times * nbytes / (rate * 1e9 * share) for nbytes, rate, share in parts if rate)


def peer_of(collective: Collective, stride: int, rank: int) -> int:
    """The rank that `rank` sends to or receives from."""
    own = rank // stride % collective.size
    return rank + ((collective.peer or 0) - own) * stride


def hop(nbytes: int, rank: int, other: int, machine: Machine) -> tuple[str, float | None]:
    """As `seconds`, for a tensor that one rank sends to another."""
    inside = rank // machine.per_node == other // machine.per_node
    rate = machine.links.inside if inside else machine.links.between
    place = INSIDE if inside else BETWEEN
    return place, 0.0 if not nbytes else None if rate is None else nbytes / (rate * 1e9)


@dataclass(frozen=True)
class Spans:
    """Seconds of a rank of a pipeline: of each of its actions, before the first and after the last (with the
    optimizer). None: a link's rate is not known."""

    each: tuple[float | None, ...]
    before: float | None
    after: float | None


def spans(
    trace: Trace, collectives: Sequence[Collective], machine: Machine, strides: Mapping[str, int],
    ranges: Sequence[tuple[int, int]],
) -> Spans:  # fmt: skip
    """The work in each range of operators: its computation, and collectives over tp, for which it waits. Of
    others those before all computation and after that of the backward."""
    limits, ops = roof(machine.device), trace.ops
    took: list[float | None] = [bound(op, limits).seconds if _computes(trace, op) else 0.0 for op in ops]
    working = [place for place, value in enumerate(took) if value and ops[place].phase != "optimizer"]
    first, last = (working[0], working[-1]) if working else (0, len(ops))
    tail: list[float | None] = []  # a reduction at the end holds up no other rank
    for one in collectives:
        if one.over == "tp" or (one.peer is None and one.at < first):
            took[one.at] = seconds(one, machine, strides)[1]
        elif one.peer is None and one.at > last:
            tail.append(seconds(one, machine, strides)[1])
    start, end = ranges[0][0], ranges[-1][1]
    between = [place for (_, stop), (begin, _) in pairwise(ranges) for place in range(stop, begin)]
    return Spans(
        tuple(_sum(took[begin:stop]) for begin, stop in ranges),
        _sum(took[:start]),
        _sum([*tail, *took[end:], *(took[place] for place in between)]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value or 0.0 for value in values)


def times(
    trace: Trace, collectives: Sequence[Collective], machine: Machine, strides: Mapping[str, int],
    rank: int = 0, copied: int = 0,
) -> Times:  # fmt: skip
    """The bounds of a recorded step of `rank`, which copies so many bytes to the host or back."""
    limits = roof(machine.device)
    bounds = {index: bound(op, limits) for index, op in enumerate(trace.ops) if _computes(trace, op)}
    compute = sum(limit.seconds for limit in bounds.values())
    own = [index for index, limit in bounds.items() if limit.seconds]
    sums: dict[str, float | None] = {INSIDE: 0.0, BETWEEN: 0.0}
    each = [(collective, *seconds(collective, machine, strides, rank)) for collective in collectives]
    for _, place, took in each:
        before = sums[place]
        sums[place] = None if took is None or before is None else before + took
    return Times(
        compute,
        _exposed([(collective, took) for collective, _, took in each], trace, own),
        sums[INSIDE],
        sums[BETWEEN],
        _useful(trace, limits),
        sum(limit.compute is None for limit in bounds.values()),
        0.0 if not copied else None if not machine.links.host else copied / (machine.links.host * 1e9),
    )


def _exposed(
    each: Sequence[tuple[Collective, float | None]], trace: Trace, own: Sequence[int]
) -> float | None:
    """Of collectives over tp all; of the others the first, where nothing is computed before it, and those
    after the last operator of the backward. `own`: the operators that compute."""
    working = [index for index in own if trace.ops[index].phase != "optimizer"]
    first, last = (working[0], working[-1]) if working else (0, len(trace.ops))
    certain = [
        took
        for collective, took in each
        if collective.over == "tp" or collective.at < first or collective.at > last
    ]
    return None if any(took is None for took in certain) else sum(took or 0.0 for took in certain)


def _computes(trace: Trace, op: Op) -> bool:
    """Whether an operator runs with the computation for certain: not what copies or scales the buffers of
    collectives, which may run beside it, nor what runs on the host."""
    if op.name.startswith(_BESIDE):
        return False
    made = [trace.storages[spec.storage] for spec in op.outputs if spec.storage >= 0]
    return not any(one.role in (GATHERED, COMMUNICATION) or one.device == HOST for one in made)


def _useful(trace: Trace, limits: Roof) -> float | None:
    if trace.phase != "train":
        return None
    products = list(_products(trace, limits))
    return None if None in products else 3 * sum(filter(None, products))


def _products(trace: Trace, limits: Roof) -> Iterable[float | None]:
    """Seconds of each product of the forward at the peak; None where the device's is not known."""
    for op in trace.ops:
        if op.macs and op.phase == "forward":
            dtype = next(
                (s.dtype for s in (*op.inputs, *op.outputs) if s.dtype.startswith(("float", "bfloat"))), ""
            )
            peak = limits.peak(dtype, True)
            share = 1.0 if op.density is None else op.density
            yield 2 * op.macs * share / peak if peak else None
