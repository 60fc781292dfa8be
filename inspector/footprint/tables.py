"""What a simulated step looks like as tables."""

from __future__ import annotations

from typing import Any

from inspector.footprint.blocks import CATEGORIES
from inspector.footprint.step import OPTIMIZER_STEP, Memory
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace

POINTS = 400
"""Rows of the timeline at most: each is the peak of its time slice."""


def composition_frame(memory: Memory) -> Table:
    """What the peak is made of. Columns: category, blocks, bytes, share."""
    return _grouped(memory, "category", [block.category for block, _ in memory.peak], CATEGORIES)


def modules_frame(memory: Memory, depth: int) -> Table:
    """The peak by module, cut at `depth` levels ("" is the model). Columns: module, blocks, bytes, share."""
    names = [".".join(block.module.split(".")[:depth]) if depth else "" for block, _ in memory.peak]
    return _grouped(memory, "module", names)


def makers_frame(memory: Memory) -> Table:
    """The peak by the operator that made each block. Columns: operator, blocks, bytes, share."""
    return _grouped(memory, "operator", [block.op for block, _ in memory.peak])


def workspaces_frame(memory: Memory) -> Table:
    """What workspaces outside the peak may add to it, the most demanding first. Columns: library, kind,
    at_least, at_most (bytes), source."""
    rows = [(owner, kind, *extra, source) for (owner, kind, source), extra in memory.extras.items()]
    rows.sort(key=lambda row: (row[0], -row[3]))
    return Table.of(rows, ("library", "kind", "at_least", "at_most", "source"))


def _grouped(memory: Memory, column: str, names: list[str], order: tuple[str, ...] | None = None) -> Table:
    sums: dict[str, list[int]] = {}
    for name, (_, nbytes) in zip(names, memory.peak):
        row = sums.setdefault(name, [0, 0])
        row[0] += 1
        row[1] += nbytes
    rows = [
        (name, blocks, nbytes, nbytes / (memory.allocated or 1))
        for name, (blocks, nbytes) in sums.items()
        if nbytes > 0
    ]
    if order:
        rows.sort(key=lambda row: order.index(row[0]))
    else:
        rows.sort(key=lambda row: (-row[2], row[0]))
    return Table.of(rows, (column, "blocks", "bytes", "share"))


def timeline_frame(trace: Trace, memory: Memory, points: int = POINTS) -> Table:
    """Bytes that live at each operator, in at most `points` rows, each the peak of its time slice.

    Columns: at (index of the operator), phase, module, operator, bytes, and one for each category.
    """
    totals = [sum(row.values()) for row in memory.curve]
    count = len(totals)
    slices = min(points, count)
    rows: list[dict[str, Any]] = []
    for number in range(slices):
        inside = range(number * count // slices, (number + 1) * count // slices)
        index = max(inside, key=totals.__getitem__)
        parts = {name: memory.curve[index].get(name, 0) for name in CATEGORIES}
        rows.append({"at": index, **moment(trace, index), "bytes": totals[index], **parts})
    return Table.of(rows, ("at", "phase", "module", "operator", "bytes", *CATEGORIES))


def moment(trace: Trace, index: int) -> dict[str, str]:
    """Phase, module and operator of a row of the curve; the row after the last operator is the optimizer."""
    if index == OPTIMIZER_STEP or index >= len(trace.ops):
        return {"phase": "optimizer", "module": "", "operator": "step"}
    op = trace.ops[index]
    return {"phase": op.phase, "module": op.module, "operator": op.name}


def bars_frame(timeline: Table, rows: int = 24, width: int = 40) -> Table:
    """The timeline as text: each row is the peak of a time slice, with a bar of at most `width`."""
    count = len(timeline)
    lines = min(rows, count)
    nbytes = timeline["bytes"]
    highest = max(nbytes, default=0)
    picked = [
        max(range(n * count // lines, (n + 1) * count // lines), key=nbytes.__getitem__) for n in range(lines)
    ]
    columns = ("phase", "module", "bytes")
    frame = Table({name: [timeline[name][place] for place in picked] for name in columns})
    return frame.assign(timeline=[_bar(size / (highest or 1), width) for size in frame["bytes"]])


_EIGHTHS = " ▏▎▍▌▋▊▉"


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
