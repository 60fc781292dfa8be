"""The operator table, and the operators that no formula knows."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd

from inspector.profiling.views.totals import flops
from inspector.tracing.record import Trace

OPS = ("op", "calls", "macs", "flops", "bytes", "activations", "unknown", "share")


def ops_frame(trace: Trace) -> pd.DataFrame:
    """A row for each operator, largest first. Columns: op, calls, macs, flops, bytes, activations,
    unknown, share (of all FLOPs). macs and flops are missing for an operator without a formula."""
    rows: dict[str, dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(("calls", "macs", "flops", "bytes", "activations", "unknown"), 0)
    )
    for op in trace.ops:
        row = rows[op.name]
        row["calls"] += 1
        row["macs"] += op.macs or 0
        row["flops"] += flops(op)
        row["bytes"] += op.bytes_read + op.bytes_written
        row["activations"] += op.activations
        row["unknown"] += not op.known
    whole = sum(row["flops"] for row in rows.values()) or 1
    frame = pd.DataFrame(
        [{"op": name, **row, "share": row["flops"] / whole} for name, row in rows.items()],
        columns=list(OPS),
    )
    frame = frame.sort_values(["flops", "bytes", "op"], ascending=[False, False, True])
    blind = frame["unknown"] == frame["calls"]
    for column in ("macs", "flops"):
        frame[column] = frame[column].astype("Int64").mask(blind)
    return frame.reset_index(drop=True)


def unknown_frame(trace: Trace) -> pd.DataFrame:
    """A row for each unknown operator and module. Columns: op, calls, module."""
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for op in trace.ops:
        if not op.known:
            calls[op.name, op.module] += 1
    rows = [{"op": op, "calls": count, "module": module} for (op, module), count in calls.items()]
    return pd.DataFrame(rows, columns=["op", "calls", "module"])
