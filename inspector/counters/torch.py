"""torch's own `FlopCounterMode`: operators below autograd, each with a formula."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.module_tracker import ModuleTracker

from inspector.counters.operators import ATTENTION, FUSED, Contractions, Work, fused
from inspector.counters.record import BACKWARD, Cell, Count, Counter, Part
from inspector.models import Subject
from inspector.tracing._torch import TorchDispatchMode, tree_leaves
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.modules import module_calls, paths_of
from inspector.tracing.record import Trace


def run(subject: Subject, phase: str) -> Count:
    """`FlopCounterMode` as it comes; each of its formulas also notes which module called it."""
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    model = subject.model.train(phase == "train")
    cells: dict[tuple[str, str], int] = defaultdict(int)
    details: dict[tuple[str, str], int] = defaultdict(int)
    counter = FlopCounterMode(display=False)
    with _path_of(model) as path:
        for op, formula in flop_registry.items():
            counter.flop_registry[op] = _noted(op, formula, path, cells, details)
        watch = _Unpriced(set(flop_registry), path)
        with watch, counter:
            _run(model, subject, phase)
    return Count(
        counter.get_total_flops(),
        sum(parameter.numel() for parameter in model.parameters()),
        tuple(
            Cell(module, kind, value, {"again": details[module, kind]})
            for (module, kind), value in cells.items()
        ),
        {module: dict(kinds) for module, kinds in watch.seen.items()},
        tuple(str(op) for op in flop_registry),
    )


def _run(model: nn.Module, subject: Subject, phase: str) -> None:
    with torch.set_grad_enabled(phase == "train"):
        outputs = model(*subject.args, **subject.kwargs)
        if phase == "train":
            roots = differentiable(outputs)
            torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])


@contextmanager
def _path_of(model: nn.Module) -> Iterator[Callable[[], str]]:
    """A function that says which module of `model` runs now."""
    stack, tracker = [""], ModuleTracker()
    with module_calls(paths_of(model), lambda call: stack.append(call.path), lambda _: stack.pop()):
        yield lambda: BACKWARD if tracker.is_bw else stack[-1]


def _noted(op: Any, formula: Any, path: Callable[[], str], cells: Any, details: Any) -> Any:
    """torch's formula, which also adds to the cell of the module that runs."""

    def noting(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        flops = formula(*args, out_val=out_val, **kwargs)
        key = path(), str(op)
        cells[key] += flops
        if "attention" in key[1] and key[1].endswith("_backward"):
            details[key] += _scores(*args[1:3])
        return flops

    return noting


def _scores(query: torch.Tensor, key: torch.Tensor) -> int:
    """MACs of query times key: (..., heads, L, E) and (..., heads, S, E)."""
    return query.numel() * key.shape[-2]


class _Unpriced(TorchDispatchMode):
    """Names the operators that the counter ran and has no formula for, by module."""

    supports_higher_order_operators = True

    def __init__(self, priced: set[Any], path: Callable[[], str]) -> None:
        super().__init__()
        self.priced = priced
        self.path = path
        self.seen: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(func, "overloadpacket", func)
        tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
        if packet not in self.priced and tensors:
            self.seen[self.path()][str(packet).rpartition(".")[2]] += 1
        return func(*args, **(kwargs or {}))


def explain(trace: Trace, count: Count) -> list[Part]:
    """Fused kernels and operators without a formula; in the backward two formulas that are too large."""
    work = Contractions(trace)
    parts: list[Part] = []
    opaque: set[int] = set()
    for module, kinds in count.blind.items():
        for kind in kinds:
            if kind in FUSED:
                parts += fused(module, kind, work)
                opaque |= {id(w.op) for w in (work.below(module) if FUSED[kind] else work.at(module))}
    parts += [part for w in work.all if id(w.op) not in opaque for part in _part(w, count)]
    again = sum(cell.detail.get("again", 0) for cell in count.cells)
    parts.append(Part("", "attention", "attention computed again in the backward", again, "backward"))
    return [part for part in parts if part.amount]


def _part(w: Work, count: Count) -> Iterator[Part]:
    cause = _missing(w, count)
    if cause is not None:
        yield Part(w.module, w.kind, cause, -w.macs, w.op.phase)
    elif w.op.name == "aten.convolution_backward":
        yield Part(w.module, w.kind, "grouped weight gradient", _grouped(w), "backward")


def _missing(w: Work, count: Count) -> str | None:
    """Why torch has no FLOPs for this contraction, None where it has."""
    place = w.module if w.op.phase == "forward" else BACKWARD
    ran = count.blind.get(place, {})
    if w.op.group == ATTENTION and any("attention" in name for name in ran):
        return "no formula for attention"
    if w.kind == "recurrent" and any(name in _RECURRENT_KERNELS for name in ran):
        return "fast path opaque"
    return None if w.op.name in count.formulas else "no formula for this operator"


_RECURRENT_KERNELS = {"mkldnn_rnn_layer", "mkldnn_rnn_layer_backward", "_cudnn_rnn", "_cudnn_rnn_backward"}


def _grouped(w: Work) -> int:
    """torch multiplies the weight gradient by all pairs of channels, not those of one group; the same
    for a transposed convolution."""
    grad, x, weight = w.op.inputs[:3]
    if not any(out.shape == weight.shape for out in w.op.outputs):
        return 0
    transposed = w.kind == "transposed convolution"
    groups = grad.shape[1] // weight.shape[1] if transposed else x.shape[1] // weight.shape[1]
    one = (x.numel if transposed else grad.numel) * prod(weight.shape[1:])
    return (groups - 1) * one


COUNTER = Counter(
    name="torch",
    unit="FLOP",
    convention="2 FLOPs for each multiply-add of operators below autograd: products, convolution, attention",
    source=f"torch {torch.__version__.partition('+')[0]}: torch/utils/flop_counter.py",
    run=run,
    explain=explain,
    package="torch",
    trains=True,
)
