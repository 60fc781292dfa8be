"""What a recorded rank holds, sends and takes, as plain numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import astuple
from math import prod
from typing import Any

from inspector.footprint.cublas import Workspaces
from inspector.footprint.step import Memory, Plan, simulate
from inspector.footprint.tables import moment
from inspector.footprint.workspaces import Rules
from inspector.scaling.bound import Machine, Times, peer_of, seconds, spans, times
from inspector.scaling.communication import Collective
from inspector.scaling.layout import Layout
from inspector.scaling.simulate import Rank
from inspector.tracing.capture.parallel import HOST
from inspector.tracing.record import Trace

HELD = {
    "parameters": "parameter",
    "gradients": "gradient",
    "optimizer state": "optimizer state",
    "buffers": "buffer",
}
"""What a rank holds from step to step, and the role of its storages."""
POINTS = 200
BOTH = "both"
"""Links of a collective some of whose calls stay inside a node."""


def held(trace: Trace, devices: tuple[str, ...] = ("meta", HOST)) -> dict[str, int]:
    """Bytes of the tensors that a rank holds, as torch asks for them, on its device and on the host."""
    sums: Counter[str] = Counter()
    for storage in trace.storages:
        if storage.device in devices:
            sums[storage.role] += storage.nbytes
    return {name: sums[role] for name, role in HELD.items()}


def played(trace: Trace, major: int | None = None, exact: bool = False) -> Memory:
    """The memory of a recorded step on torch's allocator, in the second of two like steps."""
    plan = Plan(
        exact=exact,
        workspaces=Workspaces.expected(major),
        rules=Rules(major),
        recorded=trace.phase == "train",
    )
    return simulate(trace, plan)


def summary(rank: Rank, layout: Layout, machine: Machine | None) -> dict[str, Any]:
    """All that a report tells of a rank; plain values, bytes and seconds."""
    trace = rank.trace
    memory = played(trace, machine.device.major if machine is not None else None)
    spot = moment(trace, memory.peak_at)
    apart = strides(layout.mesh)
    bounds = _bounds(rank, machine, apart) if machine is not None else None
    return {
        "rank": rank.rank,
        "place": layout.coordinates(rank.rank),
        "inputs": list(trace.inputs),
        "type": trace.modules[0].type,
        "dtype": _dtype(trace),
        "notes": list(trace.notes),
        "held": held(trace),
        "host": sum(held(trace, (HOST,)).values()),
        "copies": {way: [len(each), sum(each)] for way, each in rank.copies.items()},
        "peak_allocated": memory.allocated,
        "peak_reserved": memory.reserved,
        "needed": memory.needed,
        "peak_at": spot,
        "peak": dict(memory.categories),
        "timeline": _timeline(trace, memory),
        "collectives": _collectives(rank, layout, machine),
        "by_module": _by_module(rank.collectives),
        "peers": _peers(rank, apart),
        "pipeline": _pipeline(rank, layout, machine),
        "loss": rank.loss,
        "times": _times(bounds),
        "ops": len(trace.ops),
        "macs": sum(op.macs or 0 for op in trace.ops),
        "unknown": dict(Counter(op.name for op in trace.ops if not op.known and op.phase != "optimizer")),
    }


def _bounds(rank: Rank, machine: Machine, apart: Mapping[str, int]) -> Times:
    copied = max(map(sum, rank.copies.values()), default=0)
    return times(rank.trace, rank.collectives, machine, apart, rank.rank, copied)


def _dtype(trace: Trace) -> str:
    """That of most parameters."""
    sizes: Counter[str] = Counter()
    for entry in trace.state:
        if entry.kind == "parameter":
            sizes[entry.dtype] += entry.numel
    return max(sizes, key=sizes.__getitem__, default="no parameters")


def strides(mesh: Mapping[str, int]) -> dict[str, int]:
    """How far apart two neighbours of each dimension are in the order of ranks."""
    names = list(mesh)
    return {name: prod(mesh[later] for later in names[place + 1 :]) for place, name in enumerate(names)}


def _collectives(rank: Rank, layout: Layout, machine: Machine | None) -> list[dict[str, Any]]:
    """Sums by kind and dimension; seconds None where a link's rate is not known."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    apart = strides(layout.mesh)
    for one in rank.collectives:
        row = rows.setdefault(
            (one.kind, one.over),
            {"collective": one.kind, "over": one.over, "processes": one.size, "calls": 0, "nbytes": 0,
             "sent": 0, "link": "", "seconds": 0.0 if machine is not None else None},
        )  # fmt: skip
        row["calls"] += 1
        row["nbytes"] += one.nbytes
        row["sent"] += one.sent
        if machine is not None:
            link, took = seconds(one, machine, apart, rank.rank)
            row["link"] = link if row["link"] in ("", link) else BOTH
            row["seconds"] = None if took is None or row["seconds"] is None else row["seconds"] + took
    return sorted(rows.values(), key=lambda row: -row["nbytes"])


def _peers(rank: Rank, apart: Mapping[str, int]) -> list[dict[str, Any]]:
    """What a rank of a pipeline sends to each other rank, and receives from it."""
    rows: dict[tuple[int, str], dict[str, Any]] = {}
    for one in rank.collectives:
        if one.peer is not None:
            peer = peer_of(one, apart[one.over], rank.rank)
            row = rows.setdefault(
                (peer, one.kind), {"peer": peer, "collective": one.kind, "calls": 0, "nbytes": 0}
            )
            row["calls"] += 1
            row["nbytes"] += one.nbytes
    return [rows[key] for key in sorted(rows)]


def _pipeline(rank: Rank, layout: Layout, machine: Machine | None) -> dict[str, Any] | None:
    """The work of a rank in its pipeline, as plain lists; seconds None where no device was named."""
    line = rank.line
    if line is None:
        return None
    work = None
    if machine is not None:
        ranges = [(start, end) for _, start, end in line.mine]
        own = spans(rank.trace, rank.collectives, machine, strides(layout.mesh), ranges)
        work = {"each": list(own.each), "before": own.before, "after": own.after}
    return {
        "blocks": line.blocks, "stages": list(line.stages), "counts": list(line.counts),
        "microbatches": line.microbatches, "hidden": line.hidden,
        "order": [[astuple(action) for action in actions] for actions in line.order], "work": work,
    }  # fmt: skip


def _by_module(collectives: tuple[Collective, ...]) -> list[dict[str, Any]]:
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for one in collectives:
        key = one.module, one.kind, one.over
        empty = {
            "module": one.module,
            "collective": one.kind,
            "over": one.over,
            "calls": 0,
            "nbytes": 0,
            "sent": 0,
        }
        row = rows.setdefault(key, empty)
        row["calls"] += 1
        row["nbytes"] += one.nbytes
        row["sent"] += one.sent
    return list(rows.values())


def _timeline(trace: Trace, memory: Memory) -> list[dict[str, Any]]:
    """The bytes that live, in at most `POINTS` rows, each the peak of its time slice."""
    totals = [sum(row.values()) for row in memory.curve]
    count = len(totals)
    slices = min(POINTS, count)
    rows: list[dict[str, Any]] = []
    for number in range(slices):
        inside = range(number * count // slices, (number + 1) * count // slices)
        index = max(inside, key=totals.__getitem__)
        rows.append({"at": index, **moment(trace, index), "bytes": totals[index]} | memory.curve[index])
    return rows


def _times(bounds: Times | None) -> dict[str, Any] | None:
    if bounds is None:
        return None
    return {
        "compute": bounds.compute, "exposed": bounds.exposed, "inside": bounds.inside,
        "between": bounds.between, "step": bounds.step, "mfu": bounds.mfu, "unknown": bounds.unknown,
        "useful": bounds.useful,
    }  # fmt: skip
