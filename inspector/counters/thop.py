"""thop 0.1.1: a hook on each module of a known class adds to a buffer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from torch import nn

from inspector.counters.operators import Contractions, Work, norms, unhooked
from inspector.counters.positional import positional
from inspector.counters.record import Cell, Count, Counter, Part
from inspector.models import Subject
from inspector.tracing.capture.modules import paths_of
from inspector.tracing.record import Op, Trace


def run(subject: Subject, phase: str) -> Count:
    """`thop.profile` in eval mode; each cell is a module with the rule that thop has for its class."""
    from thop import profile
    from thop.profile import register_hooks

    model, args = subject.model, positional(subject)
    total, params, layers = profile(model, inputs=args, verbose=False, ret_layer_info=True)
    names = paths_of(model)
    values = dict(_leaves(layers)) or {"": total}
    cells = []
    for path, value in values.items():
        module = model.get_submodule(path)
        rule = register_hooks.get(type(module))
        if rule is not None:
            detail = {**_detail(module), "first": names[id(module)]}
            cells.append(Cell(path, rule.__name__, round(value), detail))
    return Count(round(total), round(params), tuple(cells))


def _leaves(layers: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, (ops, _, inner) in layers.items():
        path = f"{prefix}{name}"
        if inner:
            yield from _leaves(inner, path + ".")
        else:
            yield path, ops


def _detail(module: nn.Module) -> dict[str, Any]:
    """The attributes that thop's rules read, besides shapes."""
    affine = getattr(module, "affine", False) or getattr(module, "elementwise_affine", False)
    detail: dict[str, Any] = {"affine": bool(affine)}
    if isinstance(module, nn.Softmax):
        detail["dim"] = module.dim
    if isinstance(module, nn.Upsample):
        detail["mode"] = module.mode
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        detail["bias"] = bool(module.bias)
    return detail


_UPSAMPLE = {"nearest": 1, "linear": 5, "bilinear": 11, "bicubic": 224 + 35}
"""Per output element (calc_func.py: calculate_upsample); other modes are 0 (basic_hooks.py)."""


def explain(trace: Trace, count: Count) -> list[Part]:
    """The rules of thop/vision/basic_hooks.py and thop/rnn_hooks.py on the shapes of our trace."""
    work = Contractions(trace)
    rules = {cell.module: cell for cell in count.cells}
    parts: list[Part] = []
    by_module: dict[str, list[Op]] = defaultdict(list)
    for op in trace.ops:
        if op.phase == "forward":
            by_module[op.module].append(op)
    normed: dict[str, int] = defaultdict(int)
    for op in norms(trace):
        normed[op.module] += op.inputs[0].numel
    for path, cell in rules.items():
        ops = by_module[path]
        if cell.kind == "count_normalization":
            per_element = 4 if cell.detail["affine"] else 2
            parts.append(Part(path, "normalisation", "counts normalisation", per_element * normed[path]))
        elif cell.kind == "count_convNd":
            parts += _convolutions(work.at(path), _unbatched(ops))
        elif cell.kind.startswith(("count_lstm", "count_gru", "count_rnn")):
            parts += _recurrent(trace, path, cell, work.at(path), _unbatched(ops))
        elif cell.kind in _POINTWISE:
            amount = sum(_POINTWISE[cell.kind](op, cell.detail) for op in ops if op.bytes_written)
            parts.append(Part(path, "pointwise", "counts other pointwise work", amount))
    parts += [
        Part(w.module, w.kind, unhooked(w, work), -w.macs)
        for w in work.all
        if w.op.phase == "forward" and w.module not in rules
    ]
    parts += list(_shared(rules, work, parts))
    return [part for part in parts if part.amount]


def _shared(rules: Mapping[str, Cell], work: Contractions, parts: list[Part]) -> Iterator[Part]:
    """A module with n names gets n hooks (thop/profile.py: model.apply), and its sum counts under each."""
    names: dict[str, list[str]] = defaultdict(list)
    for path, cell in rules.items():
        names[cell.detail["first"]].append(path)
    for first, paths in names.items():
        if len(paths) == 1:
            continue
        once = sum(w.macs for w in work.at(first) if w.op.phase == "forward")
        once += sum(part.amount for part in parts if part.module == first)
        for path in paths:
            times = len(paths) - (path == first)
            yield Part(path, "shared", "shared module counted for each parent", times * once)


_UNBATCHED = "input without a batch misread"


def _unbatched(ops: list[Op]) -> tuple[int, ...] | None:
    """The shape of a module's input, where torch put the batch in front of it."""
    return next((op.inputs[0].shape for op in ops if op.name == "aten.unsqueeze"), None)


def _convolutions(work: list[Work], unbatched: tuple[int, ...] | None) -> Iterator[Part]:
    """thop: out.numel * (input.shape[1] // groups) * kernel, right for a plain convolution of a batch."""
    for w in work:
        if w.op.phase != "forward":
            continue
        x, weight, out = w.op.inputs[0], w.op.inputs[1], w.op.outputs[0]
        transposed = w.kind == "transposed convolution"
        groups = out.shape[1] // weight.shape[1] if transposed else x.shape[1] // weight.shape[1]
        kernel = prod(weight.shape[2:])
        theirs = out.numel * (x.shape[1] // groups) * kernel
        if transposed:
            yield Part(w.module, w.kind, "transposed convolution over-counted by its stride", theirs - w.macs)
        if unbatched is not None:
            misread = out.numel * (unbatched[1] // groups) * kernel
            yield Part(w.module, w.kind, _UNBATCHED, misread - theirs)


def _recurrent(
    trace: Trace, path: str, cell: Cell, work: list[Work], unbatched: tuple[int, ...] | None
) -> Iterator[Part]:
    """The gates; and the features taken for the batch, where there is none."""
    macs = sum(w.macs for w in work if w.op.phase == "forward")
    gates = _gates(trace, path, cell, macs)
    yield gates
    if unbatched is not None:
        yield Part(path, "recurrent", _UNBATCHED, (unbatched[-1] - 1) * (macs + gates.amount))


def _gates(trace: Trace, path: str, cell: Cell, macs: int) -> Part:
    """Per step, sample and layer of hidden size h, beyond the products: rnn_hooks.py adds h for each gate
    and 2h for its biases; then 4h (LSTM, GRU) of Hadamard products."""
    prefix = f"{path}." if path else ""
    own = {e.name.removeprefix(prefix): e.shape for e in trace.state if e.name.startswith(prefix)}
    hidden = [shape for name, shape in own.items() if name.startswith("weight_hh")]
    weights = sum(prod(shape) for name, shape in own.items() if name.startswith("weight"))
    steps = macs // weights if weights else 0
    gates = sum(shape[0] for shape in hidden)
    cells = 0 if cell.kind.startswith("count_rnn") else 4 * sum(shape[1] for shape in hidden)
    amount = steps * (gates * (3 if cell.detail["bias"] else 1) + cells)
    return Part(path, "recurrent", "counts other pointwise work", amount)


def _adaptive(op: Op, detail: Mapping[str, Any]) -> int:
    """(input elements for one output + 1) x outputs, spatial sizes divided (count_adap_avgpool)."""
    x, y = op.inputs[0].shape[2:], op.outputs[0].shape[2:]
    kernel = prod(a / b for a, b in zip(x, y))
    return int((kernel + 1) * op.outputs[0].numel)


def _softmax(op: Op, detail: Mapping[str, Any]) -> int:
    """Exponentials, additions and divisions: 3n - 1 for each of numel / n rows."""
    features = op.inputs[0].shape[detail["dim"]]
    return op.inputs[0].numel // features * (3 * features - 1)


_POINTWISE = {
    "count_adap_avgpool": _adaptive,
    "count_avgpool": lambda op, detail: op.outputs[0].numel,
    "count_prelu": lambda op, detail: op.outputs[0].numel,
    "count_softmax": _softmax,
    "count_upsample": lambda op, detail: op.outputs[0].numel * _UPSAMPLE.get(detail["mode"], 0),
}


COUNTER = Counter(
    name="thop",
    unit="MAC",
    convention="modules of exactly the classes Conv, Linear, RNN; plus norms (4 an element), average pooling,"
    " softmax, up-sampling; no attention, no functions; eval mode",
    source="thop 0.1.1: thop/profile.py, thop/vision/basic_hooks.py, thop/rnn_hooks.py",
    run=run,
    explain=explain,
    package="thop",
)
