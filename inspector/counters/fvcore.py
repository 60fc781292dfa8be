"""fvcore 0.1.5: operators of a TorchScript trace, each with a handler."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import torch

from inspector.counters.operators import ATTENTION, FUSED, Contractions, Work, fused, named, norms, unpriced
from inspector.counters.positional import flatten_outputs, positional
from inspector.counters.record import Cell, Count, Counter, Part
from inspector.models import Subject
from inspector.tracing.record import Op, Trace


def run(subject: Subject, phase: str) -> Count:
    """`FlopCountAnalysis` in eval mode without gradients, with fvcore's own attribution to modules."""
    from fvcore.nn import FlopCountAnalysis, parameter_count

    model, args = subject.model.eval(), positional(subject)
    flatten_outputs(model)
    analysis = FlopCountAnalysis(model, args).unsupported_ops_warnings(False)
    analysis.uncalled_modules_warnings(False).tracer_warnings("none")
    short: dict[str, int] = defaultdict(int)
    analysis.set_op_handle("aten::matmul", _noted(short))
    with torch.no_grad():
        counts = analysis.by_module_and_operator()
        total = round(float(analysis.total()))
    cells = tuple(
        Cell(module, kind, round(float(value)), {"short": short[module]} if kind == "matmul" else {})
        for module, kinds in _own(counts).items()
        for kind, value in kinds.items()
    )
    unsupported = _own({name: analysis.unsupported_ops(name) for name in counts})
    blind = {
        module: {str(kind).rpartition("::")[2]: int(calls) for kind, calls in kinds.items()}
        for module, kinds in unsupported.items()
    }
    return Count(total, int(parameter_count(model)[""]), cells, blind)


def _noted(short: dict[str, int]) -> Callable[[list[Any], list[Any]], int]:
    """fvcore's handler of a matmul, which also notes what it leaves out: it multiplies the first matrix,
    with its batch, by the last dimension of the second (matmul_flop_jit)."""
    from fvcore.nn.jit_handles import get_shape, matmul_flop_jit

    def noting(inputs: list[Any], outputs: list[Any]) -> int:
        counted = int(matmul_flop_jit(inputs, outputs))
        first, result = get_shape(inputs[0]), get_shape(outputs[0])
        scope = outputs[0].node().scopeName().rpartition("/")[2]
        short[scope] += prod(result) * first[-1] - counted
        return counted

    return noting


def _own(counts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """fvcore's sums include everything inside a module: what each did itself."""
    own = {module: dict(kinds) for module, kinds in counts.items()}
    for module, kinds in counts.items():
        if module:
            above = own[module.rpartition(".")[0]]
            for kind, value in kinds.items():
                above[kind] -= value
    kept = {module: {k: v for k, v in kinds.items() if v} for module, kinds in own.items()}
    return {module: kinds for module, kinds in kept.items() if kinds}


def explain(trace: Trace, count: Count) -> list[Part]:
    """The handlers of fvcore/nn/jit_handles.py on the shapes of our trace; what has none is missing."""
    work = Contractions(trace)
    parts = [part for module, kinds in count.blind.items() for part in _blind(module, kinds, work)]
    counted = {(cell.module, cell.kind) for cell in count.cells}
    parts += _norms(trace, counted)
    for op in trace.ops:
        kind, amount = _pointwise(op)
        if amount and (op.module, kind) in counted:
            parts.append(Part(op.module, "pointwise", "counts other pointwise work", amount))
    cause = "broadcast product without its batch"
    parts += [Part(c.module, "matmul", cause, -c.detail.get("short", 0)) for c in count.cells]
    parts += [_printed(w) for w in work.all if w.op.group == "einsum" and (w.module, "einsum") in counted]
    return [part for part in parts if part.amount]


def _printed(w: Work) -> Part:
    """fvcore reads the cost of an einsum from NumPy's text, which has four digits (einsum_flop_jit)."""
    return Part(w.module, w.kind, "rounded figure", int(float(f"{2 * w.macs:.3e}") / 2) - w.macs)


def _blind(module: str, kinds: Mapping[str, int], work: Contractions) -> Iterator[Part]:
    for kind in kinds:
        if kind in FUSED:
            yield from fused(module, kind, work)
        elif kind == ATTENTION:
            for w in named(work.at(module), ATTENTION):
                yield Part(module, w.kind, "no formula for attention", -w.macs)
        else:
            at = work.at(module)
            for w in [w for w in at if w.kind == "convolution"] if kind == _BY_NAME else named(at, kind):
                yield Part(module, w.kind, unpriced(w), -w.macs)


_BY_NAME = "_convolution_mode"
"""A convolution whose padding is "same" or "valid"."""


def _norms(trace: Trace, counted: set[tuple[str, str]]) -> Iterator[Part]:
    """Batch norm in eval mode 2 per element, any other norm 5; without affine 1 and 4."""
    for op in norms(trace):
        kind = op.group if op.group in _NORMS else _NORM_OF.get(op.name, "batch_norm")
        if (op.module, kind) not in counted:
            continue
        roles = [trace.storages[t.storage].role if t.storage >= 0 else "" for t in op.inputs[1:]]
        affine = any(role != "buffer" for role in roles)
        running = any(role == "buffer" for role in roles)
        per_element = (1 if kind == "batch_norm" and running else 4) + affine
        amount = per_element * op.inputs[0].numel
        yield Part(op.module, "normalisation", "counts normalisation", amount)


_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm"}
_NORM_OF = {"aten.native_layer_norm": "layer_norm", "aten.native_group_norm": "group_norm"}


def _pointwise(op: Op) -> tuple[str, int]:
    """fvcore's name and count of an operator that it counts besides contractions and norms."""
    if op.phase != "forward" or not op.bytes_written:
        return "", 0
    if op.group == "adaptive_avg_pool2d" or op.name == "aten._adaptive_avg_pool2d":
        return "adaptive_avg_pool2d", op.inputs[0].numel
    scale = {"upsample_nearest2d": 1, "upsample_bilinear2d": 4}
    name = op.name.removeprefix("aten.")
    if name in scale:
        return name, scale[name] * op.outputs[0].numel
    if name == "grid_sampler_2d":
        return "grid_sampler", 4 * op.outputs[0].numel
    return "", 0


COUNTER = Counter(
    name="fvcore",
    unit="MAC",
    convention="convolution, linear, matmul, einsum; plus norms (2 or 5 an element), adaptive pooling,"
    " up-sampling; no SDPA, no recurrence; eval mode",
    source="fvcore 0.1.5: fvcore/nn/flop_count.py, fvcore/nn/jit_handles.py",
    run=run,
    explain=explain,
    package="fvcore",
)
