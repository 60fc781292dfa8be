"""Operators that take functions: what runs inside is recorded, as if the model had written it out.

`torch.cond`, `while_loop`, `scan`, `map` and their kin arrive as one opaque call. Here each runs by its
definition, in plain PyTorch, above autograd: so the operators inside belong to the modules that call them,
and the backward is that of the body. What torch itself computes a second time in such a backward (`cond` runs
its branch again) is not counted: it changes with torch's version, and the definition does not need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from inspector.tracing import _torch
from inspector.tracing._torch import tree_flatten, tree_map, tree_unflatten
from inspector.tracing.capture.flexible import flex_attention

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

Body = Callable[..., Any]
"""Runs one higher-order operator: the recorder, the operator, then the operator's own arguments."""


def cond(recorder: Recorder, func: Any, pred: Any, true_fn: Any, false_fn: Any, operands: Any = ()) -> Any:
    """The branch that the predicate chooses."""
    if _has_value(pred):
        return (true_fn if _read(pred) else false_fn)(*operands)
    return _larger(recorder, "cond", {"true": true_fn, "false": false_fn}, operands)


def switch(recorder: Recorder, func: Any, index: Any, branches: Sequence[Any], operands: Any = ()) -> Any:
    """The branch at the index, which torch clamps to those that there are."""
    if _has_value(index):
        return branches[min(max(int(_read(index)), 0), len(branches) - 1)](*operands)
    return _larger(recorder, "switch", {str(i): branch for i, branch in enumerate(branches)}, operands)


def while_loop(
    recorder: Recorder, func: Any, cond_fn: Any, body_fn: Any, carried: Any, additional: Any = (), **_: Any
) -> Any:
    """Each turn that the condition asks for. Raises on meta, where a condition has no value."""
    while True:
        again = cond_fn(*carried, *additional)
        if not _has_value(again):
            raise RuntimeError("the trip count of while_loop is data-dependent: meta has no values")
        if not _read(again):
            return carried
        carried = body_fn(*carried, *additional)


def scan(
    recorder: Recorder, func: Any, combine: Any, init: Any, xs: Any, additional: Any = (), **_: Any
) -> Any:
    """One step for each entry along the first dimension; the outputs of the steps are stacked."""
    carry, outputs = list(init), []
    for row in _rows(xs):
        result = combine(*carry, *row, *additional)
        carry = list(result[: len(init)])
        outputs.append(list(result[len(init) :]))
    return (*carry, *(_stacked(*column) for column in zip(*outputs)))


def map_impl(recorder: Recorder, func: Any, f: Any, xs: Any, others: Any = (), **_: Any) -> Any:
    """The function on each entry along the first dimension; the results are stacked."""
    leaves, spec = tree_flatten(xs)
    results = [f(*tree_unflatten(list(row), spec), *others) for row in _rows(leaves)]
    return tree_map(_stacked, *results)


def associative_scan(recorder: Recorder, func: Any, combine: Any, xs: Any, additional: Any = ()) -> Any:
    """By pairs, as torch's own portable form does it: about two combinations an entry."""
    return _torch.scanned_by_pairs(combine, xs, additional_inputs=additional)


def out_dtype(recorder: Recorder, func: Any, op: Any, dtype: torch.dtype, *args: Any) -> Any:
    """The operator itself, which gives its result in a dtype of its own."""
    return recorder.note(op, args, lambda: func(op, dtype, *args))


def subgraph(recorder: Recorder, func: Any, graph: Any, *args: Any, **_: Any) -> Any:
    """A part of the graph on its operands."""
    return graph(*args)


def named_subgraph(recorder: Recorder, func: Any, graph: Any, name: Any, *args: Any) -> Any:
    return graph(*args)


def packed_subgraph(recorder: Recorder, func: Any, graph: Any, args: Any, *_: Any) -> Any:
    return graph(*args)


def hints_wrapper(
    recorder: Recorder, func: Any, body: Any, args: Any, kwargs: Any, *_: Any, **__: Any
) -> Any:
    return body(*args, **kwargs)


def _has_value(value: Any) -> bool:
    return not isinstance(value, Tensor) or value.device.type != "meta"


def _read(value: Any) -> Any:
    """The value itself; to look at it is no operator of the model."""
    with _torch.unseen():
        return value.item() if isinstance(value, Tensor) else value


def _larger(recorder: Recorder, name: str, branches: dict[str, Any], operands: Any) -> Any:
    """The branch with the most work in the forward, because nothing says which one runs."""
    work = {label: recorder.rehearse(branch, operands) for label, branch in branches.items()}
    chosen = max(work, key=work.__getitem__)
    where = f" in {recorder.path}" if recorder.path else ""
    sizes = ", ".join(f"{label} {macs} MACs and {flops} FLOPs" for label, (macs, flops) in work.items())
    recorder.notes[
        f"{name}{where} chooses by a value that meta does not have: its largest branch is counted ({sizes})"
    ] = None
    return branches[chosen](*operands)


def _rows(leaves: Iterable[Tensor]) -> Iterable[tuple[Tensor, ...]]:
    return zip(*(leaf.unbind(0) for leaf in leaves))


def _stacked(*values: Any) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) else values[0]


_BY_NAME: dict[str, Body] = {
    "cond": cond,
    "switch": switch,
    "while_loop": while_loop,
    "scan": scan,
    "map_impl": map_impl,
    "associative_scan": associative_scan,
    "out_dtype": out_dtype,
    "flex_attention": flex_attention,
    "strict_mode": packed_subgraph,
    "run_const_graph": packed_subgraph,
    "hints_wrapper": hints_wrapper,
    "invoke_subgraph": named_subgraph,
    "invoke_quant": subgraph,
    "invoke_quant_packed": subgraph,
    "foreach_map": subgraph,
    "local_map_hop": subgraph,
}
BODIES = {f"higher_order.{name}": body for name, body in _BY_NAME.items()}
"""By the operator's name. One that is not here is recorded whole, and is unknown without a formula."""

WHOLE = {flex_attention, out_dtype}
"""Those that record one operator, and call themselves for its result."""
