"""The operator table, and the operators that no formula knows."""

from __future__ import annotations

from collections import Counter, defaultdict

from inspector.profiling.views.modules import SUMS, add, descending, masked
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace

OPS = ("op", "calls", "macs", "flops", "bytes", "activations", "unknown", "share")


def ops_frame(trace: Trace) -> Table:
    """A row for each operator, largest first. Columns: op, calls, macs, flops, bytes, activations,
    unknown, share (of all FLOPs). macs and flops are missing for an operator without a formula."""
    rows: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("calls", *SUMS), 0))
    for op in trace.ops:
        rows[op.name]["calls"] += 1
        add(rows[op.name], op)
    whole = sum(row["flops"] for row in rows.values()) or 1
    frame = Table.of(
        [
            {"op": name, **row, "unknown": row["unknown_ops"], "share": row["flops"] / whole}
            for name, row in rows.items()
        ],
        OPS,
    ).sort(lambda row: (*descending(row["flops"], row["bytes"]), row["op"]))
    blind = [unknown == calls for unknown, calls in zip(frame["unknown"], frame["calls"])]
    return frame.assign(macs=masked(frame["macs"], blind), flops=masked(frame["flops"], blind))


def unknown_frame(trace: Trace) -> Table:
    """A row for each unknown operator and module. Columns: op, calls, module."""
    calls = Counter((op.name, op.module) for op in trace.ops if not op.known)
    rows = [(op, count, module) for (op, module), count in calls.items()]
    return Table.of(rows, ["op", "calls", "module"])
