"""What training takes for each token, against the rule of 6 FLOPs a parameter.

The rule (Kaplan et al. 2020, arXiv 2001.08361, section 2.1): each parameter multiplies and adds once in the
forward and twice in the backward, 2 FLOPs each. It leaves out the products of activations with each other
(attention), all pointwise work, and that tables are looked up, not multiplied.
"""

from __future__ import annotations

from collections import defaultdict

from inspector.profiling.views.serving import active_params
from inspector.profiling.views.totals import flops
from inspector.reporting.tables import Table
from inspector.tracing.record import Op, Trace

RULE = 6
RULE_COLUMNS = ("part", "flops_per_token", "share")


def tokens(trace: Trace) -> int | None:
    """Tokens of a pass of training: elements of the one input whose rows are looked up in a table. None for
    what is no language model: numbers come in as well, or sequences of an encoder and of a decoder."""
    looked_up: set[tuple[int, tuple[int, ...]]] = set()
    for op in trace.ops:
        for spec in op.inputs:
            outside = spec.storage >= 0 and trace.storages[spec.storage].role == "input"
            if outside and not spec.dtype.startswith(("int", "uint", "bool")):
                return None
            if outside and op.name == "aten.embedding" and len(spec.shape) == 2:
                looked_up.add((spec.storage, spec.shape))
    parts = {part for module in trace.modules for part in module.path.split(".")[:2]}
    if trace.phase != "train" or len(looked_up) != 1 or {"encoder", "decoder"} <= parts:
        return None
    (_, (batch, length)) = looked_up.pop()
    return batch * length


def training(trace: Trace) -> dict[str, int]:
    """flops_per_token; nothing for what is no training of a language model."""
    count = tokens(trace)
    return {"flops_per_token": round(sum(map(flops, trace.ops)) / count)} if count else {}


def rule_frame(trace: Trace) -> Table | None:
    """FLOPs a token as 6 a parameter and what differs from it, part by part. Columns: part, flops_per_token
    (the last row is their sum, as counted), share (of that sum). None where `training` is empty."""
    count = tokens(trace)
    if not count:
        return None
    parameters = [entry for entry in trace.state if entry.kind == "parameter"]
    whole = sum(entry.numel for entry in parameters)
    active, multiplied = active_params(trace, count)
    vectors = sum(entry.numel for entry in parameters if len(entry.shape) < 2)
    of_weights, of_activations = _products(trace)
    pointwise = sum(op.pointwise_flops or 0 for op in trace.ops)
    parts = {
        "6 x parameters": RULE * whole,
        "experts that a token does not reach": -RULE * (whole - active),
        "tables that are looked up": -RULE * (active - multiplied),
        "norms and biases: no products": -RULE * vectors,
        "frozen weights: no gradients": -2 * _frozen(trace),
        "products of activations (attention)": 2 * of_activations / count,
        "pointwise work": pointwise / count,
    }
    counted = (2 * (of_weights + of_activations) + pointwise) / count
    rest = counted - sum(parts.values())
    parts["weights used more or less than once a token and pass"] = rest
    rows = [(part, round(value)) for part, value in parts.items() if round(value)]
    rows.append(("as counted", round(counted)))
    return Table.of([(part, value, value / counted) for part, value in rows], RULE_COLUMNS)


def _frozen(trace: Trace) -> int:
    """Elements of weights that multiply and have no gradient."""
    multiply = {
        (trace.storages[spec.storage].module, trace.storages[spec.storage].nbytes)
        for op in trace.ops
        for spec in (op.inputs if op.macs else ())
        if _is_parameter(trace, spec.storage)
    }
    return sum(
        entry.numel
        for entry in trace.state
        if entry.kind == "parameter"
        and not entry.trainable
        and len(entry.shape) > 1
        and (entry.name.rpartition(".")[0], entry.nbytes) in multiply
    )


def _products(trace: Trace) -> tuple[int, int]:
    """MACs with weights (their gradients included), and of activations with each other."""
    shapes: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for op in trace.ops:
        for spec in op.inputs if op.macs else ():
            if _is_parameter(trace, spec.storage):
                shapes[op.module].add(tuple(sorted(spec.shape)))
    with_weights = of_activations = 0
    for op in trace.ops:
        if _weighs(trace, op, shapes[op.module]):
            with_weights += op.macs or 0
        else:
            of_activations += op.macs or 0
    return with_weights, of_activations


def _weighs(trace: Trace, op: Op, shapes: set[tuple[int, ...]]) -> bool:
    """Whether a product has a parameter on one side, or makes the gradient of one of its module's."""
    if any(_is_parameter(trace, spec.storage) for spec in op.inputs):
        return True
    return op.phase == "backward" and any(tuple(sorted(spec.shape)) in shapes for spec in op.outputs)


def _is_parameter(trace: Trace, storage: int) -> bool:
    return storage >= 0 and trace.storages[storage].role == "parameter"
