"""Every operator call by itself, in the order in which they ran, with its arithmetic intensity."""

from __future__ import annotations

from collections.abc import Iterable

from inspector.profiling.views.totals import flops
from inspector.reporting.tables import Table
from inspector.tracing.record import Op, TensorSpec, Trace

CALLS = ("index", "op", "module", "phase", "inputs", "outputs", "macs", "flops", "bytes", "intensity")


def calls_frame(trace: Trace) -> Table:
    """A row for each call: index, op, module, phase, shapes of its inputs and outputs, macs, flops, bytes
    and intensity (FLOPs per byte moved). macs, flops and intensity are missing for an operator without a
    formula, the intensity also for one that moves no bytes (a view)."""
    return Table.of([_row(index, op) for index, op in enumerate(trace.ops)], CALLS)


def _row(index: int, op: Op) -> tuple[object, ...]:
    moved = op.bytes_read + op.bytes_written
    work = flops(op) if op.known else None
    intensity = work / moved if work is not None and moved else None
    shapes = _shapes(op.inputs), _shapes(op.outputs)
    return index, op.name, op.module, op.phase, *shapes, op.macs, work, moved, intensity


def _shapes(specs: Iterable[TensorSpec]) -> str:
    return ", ".join("x".join(map(str, spec.shape)) or "scalar" for spec in specs)
