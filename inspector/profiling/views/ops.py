"""The operator table, and the operators that no formula knows."""

from __future__ import annotations

from collections import Counter, defaultdict

import pandas as pd

from inspector.profiling.views.modules import SUMS, add
from inspector.tracing.record import Trace

OPS = ("op", "calls", "macs", "flops", "bytes", "activations", "unknown", "share")


def ops_frame(trace: Trace) -> pd.DataFrame:
    """A row for each operator, largest first. Columns: op, calls, macs, flops, bytes, activations,
    unknown, share (of all FLOPs). macs and flops are missing for an operator without a formula."""
    rows: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("calls", *SUMS), 0))
    for op in trace.ops:
        rows[op.name]["calls"] += 1
        add(rows[op.name], op)
    whole = sum(row["flops"] for row in rows.values()) or 1
    frame = pd.DataFrame(
        [
            {"op": name, **row, "unknown": row["unknown_ops"], "share": row["flops"] / whole}
            for name, row in rows.items()
        ],
        columns=list(OPS),
    )
    frame = frame.sort_values(["flops", "bytes", "op"], ascending=[False, False, True])
    blind = frame["unknown"] == frame["calls"]
    for column in ("macs", "flops"):
        frame[column] = frame[column].astype("Int64").mask(blind)
    return frame.reset_index(drop=True)


def unknown_frame(trace: Trace) -> pd.DataFrame:
    """A row for each unknown operator and module. Columns: op, calls, module."""
    calls = Counter((op.name, op.module) for op in trace.ops if not op.known)
    rows = [(op, count, module) for (op, module), count in calls.items()]
    return pd.DataFrame(rows, columns=["op", "calls", "module"])
