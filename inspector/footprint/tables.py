"""What a simulated step looks like as tables."""

from __future__ import annotations

from typing import Any

import pandas as pd

from inspector.footprint.blocks import CATEGORIES
from inspector.footprint.step import OPTIMIZER_STEP, Memory
from inspector.tracing.record import Trace

POINTS = 400
"""Rows of the timeline at most: each is the peak of its time slice."""


def composition_frame(memory: Memory) -> pd.DataFrame:
    """What the peak is made of. Columns: category, blocks, bytes, share."""
    return _grouped(memory, "category", [block.category for block, _ in memory.peak], CATEGORIES)


def modules_frame(memory: Memory, depth: int) -> pd.DataFrame:
    """The peak by module, cut at `depth` levels ("" is the model). Columns: module, blocks, bytes, share."""
    names = [".".join(block.module.split(".")[:depth]) if depth else "" for block, _ in memory.peak]
    return _grouped(memory, "module", names)


def makers_frame(memory: Memory) -> pd.DataFrame:
    """The peak by the operator that made each block. Columns: operator, blocks, bytes, share."""
    return _grouped(memory, "operator", [block.op for block, _ in memory.peak])


def workspaces_frame(memory: Memory) -> pd.DataFrame:
    """What workspaces outside the peak may add to it, the most demanding first. Columns: library, kind,
    at_least, at_most (bytes), source."""
    rows = [(owner, kind, *extra, source) for (owner, kind, source), extra in memory.extras.items()]
    frame = pd.DataFrame(rows, columns=["library", "kind", "at_least", "at_most", "source"])
    return frame.sort_values(
        ["library", "at_most"], ascending=[True, False], kind="stable", ignore_index=True
    )


def _grouped(
    memory: Memory, column: str, names: list[str], order: tuple[str, ...] | None = None
) -> pd.DataFrame:
    sizes = pd.Series([nbytes for _, nbytes in memory.peak], dtype="int64")
    blocks = pd.DataFrame({column: pd.Series(names, dtype=object), "bytes": sizes})
    frame = blocks.groupby(column, as_index=False).agg(blocks=("bytes", "size"), bytes=("bytes", "sum"))
    frame = frame[frame["bytes"] > 0].assign(share=frame["bytes"] / (memory.allocated or 1))
    if order:
        return frame.sort_values(column, key=lambda group: group.map(order.index), ignore_index=True)
    return frame.sort_values(["bytes", column], ascending=[False, True], ignore_index=True)


def timeline_frame(trace: Trace, memory: Memory, points: int = POINTS) -> pd.DataFrame:
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
        rows.append({"at": index, **moment(trace, index), "bytes": totals[index], **memory.curve[index]})
    frame = pd.DataFrame(rows, columns=["at", "phase", "module", "operator", "bytes", *CATEGORIES])
    return frame.fillna(dict.fromkeys(CATEGORIES, 0)).astype(dict.fromkeys(CATEGORIES, "int64"))


def moment(trace: Trace, index: int) -> dict[str, str]:
    """Phase, module and operator of a row of the curve; the row after the last operator is the optimizer."""
    if index == OPTIMIZER_STEP or index >= len(trace.ops):
        return {"phase": "optimizer", "module": "", "operator": "step"}
    op = trace.ops[index]
    return {"phase": op.phase, "module": op.module, "operator": op.name}


def bars_frame(timeline: pd.DataFrame, rows: int = 24, width: int = 40) -> pd.DataFrame:
    """The timeline as text: each row is the peak of a time slice, with a bar of at most `width`."""
    count = len(timeline)
    lines = min(rows, count)
    highest = int(timeline["bytes"].max()) if count else 0
    picked = [
        timeline["bytes"].iloc[n * count // lines : (n + 1) * count // lines].idxmax() for n in range(lines)
    ]
    frame = timeline.loc[picked, ["phase", "module", "bytes"]].reset_index(drop=True)
    frame["timeline"] = [_bar(nbytes / (highest or 1), width) for nbytes in frame["bytes"]]
    return frame


_EIGHTHS = " ▏▎▍▌▋▊▉"


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
