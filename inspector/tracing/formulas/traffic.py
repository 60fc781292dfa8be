"""Bytes that an operator moves, when it reads each input once and writes each output once.

Views move none. Operators that select (embedding, index) read only what they return, operators
that scatter write only their source, and filling reads nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inspector.tracing.record import TensorSpec, WrappedSpec


def _aten(names: str) -> frozenset[str]:
    return frozenset(f"aten.{name}" for name in names.split())


SELECTS = _aten("embedding index index_select gather take masked_select _unsafe_index take_along_dim")
SCATTERS = _aten("index_put _index_put_impl scatter index_copy index_fill")
ACCUMULATES = _aten("index_add scatter_add scatter_reduce")
FILLS = _aten(
    "zero fill copy uniform normal random bernoulli exponential geometric log_normal cauchy set"
    " zeros_like ones_like full_like rand_like randn_like randint_like new_zeros new_ones new_full"
)
"""Operators whose first argument is only a place to write to, or only lends its shape."""
METADATA = _aten(
    "empty empty_like empty_strided new_empty new_empty_strided empty_permuted resize"
    " set is_same_size lift_fresh as_strided squeeze unsqueeze transpose t swapaxes swapdims detach"
)
"""Operators that touch no element, also when they change their argument's shape in place."""

GROUPED = frozenset({"aten._grouped_mm", "aten._scaled_grouped_mm", "transformers.grouped_mm_fallback"})
"""Products of a mixture of experts: rows, then a matrix for each group of them."""

Bytes = Callable[[TensorSpec], int]


def traffic(
    name: str,
    args: list[Any],
    inputs: list[TensorSpec],
    outputs: list[TensorSpec],
    written: list[TensorSpec],
    size: Bytes,
) -> tuple[int, int]:
    """Bytes read and written by one call.

    `args` as the operator got them, `inputs` and `outputs` in its order, `written` the inputs that it
    changes in place; `size` gives the bytes of a tensor (an expanded one holds no more than its storage).
    """
    base = name[:-1] if name.endswith("_") else name
    if name == "aten.native_batch_norm" and len(args) > 5 and args[5] is False:
        outputs = outputs[:1]  # stored statistics: the batch's are allocated by some devices only
    held = {spec.storage for spec in inputs}
    results = [spec for spec in outputs if spec.storage not in held or spec.storage == -1]
    if base in METADATA or (outputs and not results and not written):
        return 0, 0
    if base in SELECTS:
        made = sum(map(size, results))
        return made + sum(map(size, inputs[1:])), made
    if base in SCATTERS or base in ACCUMULATES:
        source = sum(map(size, inputs[1:]))
        moved = size(inputs[-1]) if len(inputs) > 1 else 0
        if not written:  # a copy, changed where it is scattered
            return source + size(inputs[0]), sum(map(size, results))
        return source + (moved if base in ACCUMULATES else 0), moved
    if name in GROUPED and len(inputs) > 1:
        rows, weights, *rest = inputs
        read = size(rows) + round(size(weights) * touched(rows, weights)) + sum(map(size, rest))
        return read, sum(map(size, results))
    sources = inputs[1:] if base in FILLS else inputs
    if written:
        positional = tensors(args)  # a keyword that is written is `out=`: not read
        sources = [spec for spec in sources if spec not in written or spec in positional]
    reads = {_place(spec): spec for spec in sources}
    return sum(map(size, reads.values())), sum(map(size, results)) + sum(map(size, written))


def touched(rows: TensorSpec, weights: TensorSpec) -> float:
    """The share of the groups that some row goes to when the rows spread evenly: fewer rows than groups read
    one matrix each."""
    if len(rows.shape) != 2 or len(weights.shape) != 3 or not weights.shape[0]:
        return 1.0
    return min(1.0, rows.shape[0] / weights.shape[0])


def _place(spec: TensorSpec) -> object:
    """The same for two tensors that show the same elements (a matrix and its transpose)."""
    return (spec.storage, spec.offset, spec.numel) if spec.storage >= 0 else id(spec)


def held(specs: list[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The tensors in memory: the parts of a wrapper in its place."""
    for spec in specs:
        if type(spec) is WrappedSpec:
            break
    else:  # nearly always
        return tuple(specs)
    return tuple(
        part for spec in specs for part in (spec.parts if isinstance(spec, WrappedSpec) else (spec,))
    )


def tensors(value: Any) -> list[TensorSpec]:
    """Every `TensorSpec` in a nested argument, in order."""
    if isinstance(value, TensorSpec):
        return [value]
    if isinstance(value, (list, tuple)):
        return [spec for entry in value for spec in tensors(entry)]
    if isinstance(value, dict):
        return [spec for entry in value.values() for spec in tensors(entry)]
    return []
