"""Which operator's output each operator reads: the flow of tensors through a pass, from their storages.

A tensor is told by its storage and by the operator that wrote it last: views share a storage and write
nothing, an operator in place makes a new tensor in the old storage. Of a storage that is written in pieces
nobody can say which piece a reader takes: it then has several writers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from inspector.tracing.formulas.traffic import FILLS, METADATA
from inspector.tracing.record import Op, TensorSpec, Trace

INPUT = -1
"""In the place of an operator that writes: the caller, who passed the tensor in."""
LEFT = -2
"""In the place of an operator that reads: whoever keeps the tensor when the pass is over."""


class Tensor(NamedTuple):
    """A tensor that flows: its storage, and the operators that wrote it, INPUT for the caller."""

    storage: int
    writers: tuple[int, ...]


@dataclass(frozen=True)
class Read:
    """Operator `reader`, or LEFT, takes `tensor`."""

    tensor: Tensor
    reader: int


def reads(trace: Trace, end: int) -> Iterator[Read]:
    """Every read, by the operators before `end`, of a tensor that another of them or the caller made; then
    of each tensor that they made and that outlives the pass: the model's output."""
    writers: dict[int, tuple[int, ...]] = {
        index: (INPUT,) for index, storage in enumerate(trace.storages) if storage.role == "input"
    }
    for index, op in enumerate(trace.ops[:end]):
        if is_view(op):
            continue
        for storage in dict.fromkeys(spec.storage for spec in _read(op)):
            if storage in writers:
                yield Read(Tensor(storage, writers[storage]), index)
        _write(trace, writers, index, op)
    for storage, made in writers.items():
        entry = trace.storages[storage]
        if entry.role == "intermediate" and entry.death is None:
            yield Read(Tensor(storage, made), LEFT)


def is_view(op: Op) -> bool:
    """Whether an operator only looks at its inputs in another shape."""
    held = {spec.storage for spec in op.inputs}
    return bool(op.outputs) and not op.bytes_written and all(spec.storage in held for spec in op.outputs)


def _read(op: Op) -> tuple[TensorSpec, ...]:
    """The inputs whose values an operator takes: not the one that is only a place to write to, or a shape."""
    base = op.name.removesuffix("_")
    return op.inputs[1:] if base in FILLS or base in METADATA else op.inputs


def _write(trace: Trace, writers: dict[int, tuple[int, ...]], index: int, op: Op) -> None:
    if not op.outputs and op.bytes_written:  # some of its inputs, and it does not say which
        for spec in op.inputs:
            writers[spec.storage] = (*writers.get(spec.storage, ()), index)
    held = {spec.storage for spec in op.inputs}
    for spec in op.outputs:
        if spec.storage < 0 or (spec.storage in held and not op.bytes_written):
            continue
        storage = trace.storages[spec.storage]
        whole = storage.birth == index or spec.nbytes >= storage.nbytes
        before = () if whole else writers.get(spec.storage, ())
        writers[spec.storage] = (*(writer for writer in before if writer != index), index)
