"""How fast each operator can be at best, limited by the device's arithmetic or by its memory.

An operator cannot take less time than its MACs (those that a causal mask leaves) take at the peak of their
precision, its other arithmetic at the vector peak, and its bytes at the bandwidth; the largest of the three
is its lower bound. The whole is the sum, because operators run one after another. Bytes count each input
and output once, from memory: what a cache keeps from one operator to the next can be faster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from inspector.profiling.views.modules import ancestors, descending
from inspector.profiling.views.totals import flops
from inspector.reporting.tables import Table
from inspector.tracing.record import Op, Trace

PRECISIONS = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
EIGHT_BITS = {"float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "int8": "int8"}
"""Dtypes of products alone: what is not a product is done in float32."""


@dataclass(frozen=True)
class Roof:
    """`peaks` in FLOP/s by precision (see `core.devices`), `bandwidth` in bytes/s. `tf32`: float32
    products run in TF32."""

    peaks: Mapping[str, float]
    bandwidth: float
    tf32: bool = False

    def peak(self, dtype: str, products: bool) -> float | None:
        """FLOP/s of products in `dtype`, or of other arithmetic, which half precision does in float32; None
        where the device's is not known."""
        name = PRECISIONS.get(dtype) or EIGHT_BITS.get(dtype)
        if not products:
            name = "fp64" if name == "fp64" else "fp32"
        elif name == "fp32" and self.tf32:
            name = "tf32"
        return self.peaks.get(name) if name else None


@dataclass(frozen=True)
class Bound:
    """Lower bounds of an operator in seconds; `compute` None where it is not known."""

    compute: float | None
    memory: float

    @property
    def seconds(self) -> float:
        return max(self.compute or 0.0, self.memory)

    @property
    def kind(self) -> str:
        return "compute" if (self.compute or 0.0) > self.memory else "memory"


def bound(op: Op, roof: Roof) -> Bound:
    """The lower bounds of one operator."""
    memory = (op.bytes_read + op.bytes_written) / roof.bandwidth
    if op.macs is None or op.pointwise_flops is None:
        return Bound(None, memory)
    dtype = _dtype(op)
    parts = []
    share = 1.0 if op.density is None else op.density  # a mask that nobody knows may leave all
    for work, products in ((2 * op.macs * share, True), (op.pointwise_flops, False)):
        peak = roof.peak(dtype, products)
        if work and peak is None:
            return Bound(None, memory)
        parts.append(work / peak if work and peak else 0.0)
    return Bound(max(parts), memory)


def _dtype(op: Op) -> str:
    """The dtype that an operator computes in: that of its first floating-point input, or output; int8 where
    both sides of a product are."""
    if op.macs and len(op.inputs) > 1 and op.inputs[0].dtype == op.inputs[1].dtype == "int8":
        return "int8"
    for spec in (*op.inputs, *op.outputs):
        if spec.dtype.startswith(("float", "bfloat")):
            return spec.dtype
    return op.outputs[0].dtype if op.outputs else ""


COLUMNS = ("calls", "flops", "bytes", "intensity", "bound", "seconds", "share", "unknown")


def operators_frame(trace: Trace, roof: Roof) -> Table:
    """A row for each operator that does something, the longest first. Columns: op, calls, flops, bytes,
    intensity (FLOPs a byte), bound, seconds (lower bound), share (of all seconds), unknown (calls whose
    arithmetic is not known)."""
    rows: dict[str, _Sum] = defaultdict(_Sum)
    for op in trace.ops:
        rows[op.name].add(op, bound(op, roof))
    return _frame("op", rows).sort(lambda row: (descending(row["seconds"]), row["op"]))


def modules_frame(trace: Trace, roof: Roof) -> Table:
    """A row for each module, sums including everything inside, in the order of the tree. Columns: path, type,
    depth, and those of `operators_frame`."""
    rows: dict[str, _Sum] = {module.path: _Sum() for module in trace.modules}
    for op in trace.ops:
        limit = bound(op, roof)
        for path in ancestors(op.module):
            if path in rows:
                rows[path].add(op, limit)
    frame = _frame("path", rows)
    types = {module.path: module.type for module in trace.modules}
    return frame.assign(
        type=[types[path] for path in frame["path"]],
        depth=[path.count(".") + 1 if path else 0 for path in frame["path"]],
    ).select(("path", "type", "depth", *COLUMNS))


class _Sum:
    """What several operators take together."""

    def __init__(self) -> None:
        self.calls = self.flops = self.bytes = self.unknown = 0
        self.seconds = self.memory_bound = 0.0

    def add(self, op: Op, limit: Bound) -> None:
        if not limit.seconds and op.known:
            return  # a view
        self.calls += 1
        self.flops += flops(op)
        self.bytes += op.bytes_read + op.bytes_written
        self.unknown += limit.compute is None
        self.seconds += limit.seconds
        self.memory_bound += limit.seconds if limit.kind == "memory" else 0.0


def _frame(column: str, rows: Mapping[str, _Sum]) -> Table:
    whole = max((row.seconds for row in rows.values()), default=0.0)
    if column == "op":
        whole = sum(row.seconds for row in rows.values())
    return Table.of(
        [
            {
                column: name,
                "calls": row.calls,
                "flops": row.flops,
                "bytes": row.bytes,
                "intensity": row.flops / row.bytes if row.bytes else None,
                "bound": "memory" if row.memory_bound >= row.seconds / 2 else "compute",
                "seconds": row.seconds,
                "share": row.seconds / (whole or 1),
                "unknown": row.unknown,
            }
            for name, row in rows.items()
            if row.calls or column == "path"
        ],
        (column, *COLUMNS),
    )


def whole(trace: Trace, roof: Roof) -> dict[str, float]:
    """seconds (the sum of the lower bounds), memory_bound (the share of it that memory bounds), and ridge:
    the FLOPs a byte at which the fastest products of 16 bits or more leave the memory's bound."""
    total = _Sum()
    for op in trace.ops:
        total.add(op, bound(op, roof))
    wide = {name: peak for name, peak in roof.peaks.items() if name not in EIGHT_BITS.values()}
    return {
        "seconds": total.seconds,
        "memory_bound": total.memory_bound / total.seconds if total.seconds else 0.0,
        "ridge": max(wide.values(), default=0.0) / roof.bandwidth,
        "unknown": total.unknown,
    }
