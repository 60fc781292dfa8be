"""What a simulated step looks like as tables."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pandas as pd

from inspector.footprint.blocks import CATEGORIES
from inspector.footprint.step import OPTIMIZER_STEP, Memory
from inspector.tracing.record import Trace

POINTS = 400
"""Rows of the timeline at most: each is the highest moment of its stretch."""


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


def _grouped(
    memory: Memory, column: str, names: list[str], order: tuple[str, ...] | None = None
) -> pd.DataFrame:
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, (_, nbytes) in zip(names, memory.peak):
        sums[name][0] += 1
        sums[name][1] += nbytes
    rows: list[dict[str, Any]] = [
        {column: name, "blocks": count, "bytes": nbytes, "share": nbytes / (memory.allocated or 1)}
        for name, (count, nbytes) in sums.items()
        if nbytes
    ]
    if order:
        rows.sort(key=lambda row: order.index(row[column]))
    else:
        rows.sort(key=lambda row: (-row["bytes"], row[column]))
    return pd.DataFrame(rows, columns=[column, "blocks", "bytes", "share"])


def timeline_frame(trace: Trace, memory: Memory, points: int = POINTS) -> pd.DataFrame:
    """Bytes that live at each operator, in at most `points` rows, each the highest of its stretch.

    Columns: at (index of the operator), phase, module, operator, bytes, and one for each category.
    """
    totals = [sum(row.values()) for row in memory.curve]
    count = len(totals)
    stretches = min(points, count)
    rows: list[dict[str, Any]] = []
    for number in range(stretches):
        inside = range(number * count // stretches, (number + 1) * count // stretches)
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
    """The timeline as text: each row is the highest moment of a stretch, with a bar of at most `width`."""
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
