"""Every operator call by itself, in the order in which they ran, with its arithmetic intensity."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from inspector.profiling.views.totals import flops
from inspector.tracing.record import Op, TensorSpec, Trace

CALLS = ("index", "op", "module", "phase", "inputs", "outputs", "macs", "flops", "bytes", "intensity")


def calls_frame(trace: Trace) -> pd.DataFrame:
    """A row for each call: index, op, module, phase, shapes of its inputs and outputs, macs, flops, bytes
    and intensity (FLOPs per byte moved). macs, flops and intensity are missing for an operator without a
    formula, the intensity also for one that moves no bytes (a view)."""
    frame = pd.DataFrame([_row(index, op) for index, op in enumerate(trace.ops)], columns=list(CALLS))
    return frame.astype({"macs": "Int64", "flops": "Int64", "intensity": "Float64"})


def _row(index: int, op: Op) -> tuple[object, ...]:
    moved = op.bytes_read + op.bytes_written
    work = flops(op) if op.known else None
    intensity = work / moved if work is not None and moved else None
    shapes = _shapes(op.inputs), _shapes(op.outputs)
    return index, op.name, op.module, op.phase, *shapes, op.macs, work, moved, intensity


def _shapes(specs: Iterable[TensorSpec]) -> str:
    return ", ".join("x".join(map(str, spec.shape)) or "scalar" for spec in specs)
