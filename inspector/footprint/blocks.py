"""The blocks of memory of a trace: what each is for, who made it, and when it lives.

A storage is a block, with one correction: where the backward adds up the gradients of a tensor's several
uses, autograd adds in place if it holds the last reference to the first (under the recorder it never does,
so the record shows a new storage there): torch/csrc/autograd/input_buffer.cpp.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from math import prod
from typing import NamedTuple

from inspector.tracing.record import ACCUMULATION, Op, Trace

CATEGORIES = (
    "parameters", "buffers", "optimizer state", "master weights", "gradients", "autocast copies",
    "activations", "temporaries", "inputs", "workspace",
)  # fmt: skip
"""What a block is for, in the order in which tables and charts show it."""

_ROLES = {
    "parameter": "parameters",
    "packing": "parameters",
    "buffer": "buffers",
    "input": "inputs",
    "constant": "inputs",
    "gradient": "gradients",
    "optimizer state": "optimizer state",
    "gathered": "gathered parameters",
    "communication": "communication buffers",
}
MATMULS = {f"aten.{name}" for name in ("mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot")}
"""Operators that cuBLAS runs."""
PARALLEL = ("gathered parameters", "communication buffers")
"""What a block is for beside `CATEGORIES` in a step of several processes."""


class Block(NamedTuple):
    """`birth` and `death` are the first and last operator that it lives through; birth None: from before
    the step, death None: until its end. `numel` and `item` (bytes) are those of a gradient's parameter."""

    nbytes: int
    category: str
    module: str
    op: str
    birth: int | None
    death: int | None
    numel: int = 0
    item: int = 0


def blocks(trace: Trace) -> list[Block]:
    """The blocks that the pass itself needs, in the order of their births."""
    merged = _accumulated_in_place(trace)
    sums = set(merged.values())
    place = trace.device.partition(":")[0]
    backwards = _backwards(trace)
    shapes = _shapes(trace)
    needed = []
    for index, storage in enumerate(trace.storages):
        if index in sums or storage.device != place:
            continue
        death, role, module = storage.death, storage.role, storage.module
        while index in merged:
            index = merged[index]
            last = trace.storages[index]
            death, role, module = last.death, last.role, module or last.module
        birth = storage.birth
        maker = trace.ops[birth] if birth is not None and birth < len(trace.ops) else None
        numel, item = shapes.get(index, (0, 0))
        needed.append(
            Block(
                storage.nbytes,
                _ROLES.get(role) or _category(maker, birth, death, backwards),
                module or (maker.module if maker else ""),
                maker.name if maker else role,
                birth,
                death,
                *((numel, item) if role == "gradient" else ()),
            )
        )
    return sorted(needed, key=lambda block: -1 if block.birth is None else block.birth)


def _accumulated_in_place(trace: Trace) -> dict[int, int]:
    """Storage of a gradient's first part to the storage of the sum that really is the same. A view keeps
    its base, so that its storage has two owners: autograd then adds out of place."""
    sums: dict[int, int] = {}
    viewed: set[int] = set()
    for index, op in enumerate(trace.ops):
        if not op.name.endswith("_"):
            viewed |= {s.storage for s in op.outputs if trace.storages[s.storage].birth != index}
        if op.group != ACCUMULATION or op.name != "aten.add" or not op.outputs:
            continue
        first, result = op.inputs[0], op.outputs[0]
        if min(first.storage, result.storage) < 0 or first.storage == result.storage:
            continue
        old, new = trace.storages[first.storage], trace.storages[result.storage]
        whole = first.nbytes == old.nbytes == new.nbytes and first.storage not in viewed
        if whole and old.death == index and new.birth == index and old.role == "intermediate":
            sums[first.storage] = result.storage
    return sums


def _backwards(trace: Trace) -> list[int]:
    """The operators of the backward, of which a step that adds up gradients has several; in a forward pass
    all that lives counts as activations: every operator."""
    if trace.phase != "train":
        return list(range(len(trace.ops)))
    return [index for index, op in enumerate(trace.ops) if op.phase == "backward"]


def _category(maker: Op | None, birth: int | None, death: int | None, backwards: list[int]) -> str:
    if maker is not None and maker.group == "autocast" and maker.phase == "forward":
        return "autocast copies"
    if birth is None or maker is None or maker.phase != "forward":
        return "temporaries"
    place = bisect_left(backwards, birth)
    backward = backwards[place] if place < len(backwards) else sys.maxsize
    return "activations" if death is None or death >= backward else "temporaries"


def _shapes(trace: Trace) -> dict[int, tuple[int, int]]:
    """Elements, and bytes of one, of the tensors that fill the storage of a gradient."""
    gradients = {index for index, storage in enumerate(trace.storages) if storage.role == "gradient"}
    shapes = {}
    for op in trace.ops:
        for spec in op.outputs:
            if spec.storage in gradients and spec.numel:
                shapes[spec.storage] = prod(spec.shape), spec.nbytes // spec.numel
    return shapes
