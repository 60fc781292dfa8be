"""torchinfo 1.8: parameters of each leaf module times its batch, or times its output positions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from math import prod

import torch
from torch import nn

from inspector.counters.operators import Contractions, unhooked
from inspector.counters.record import Cell, Count, Counter, Part
from inspector.models import Subject
from inspector.tracing.capture.modules import paths_of
from inspector.tracing.record import Trace


def run(subject: Subject, phase: str) -> Count:
    """`torchinfo.summary` in eval mode; a cell for each call of a leaf module."""
    from torchinfo import summary

    model = subject.model
    with torch.no_grad():
        result = summary(
            model, input_data=subject.args, mode="eval", device="cpu", verbose=0, **subject.kwargs
        )
    names = paths_of(model)
    cells = []
    for layer in result.summary_list:
        if layer.is_leaf_layer and layer.executed and layer.layer_id in names:
            sizes = {name: p.numel() for name, p in layer.module.named_parameters()}
            detail = {"output": list(layer.output_size), "sizes": sizes, "family": _family(layer.module)}
            cells.append(Cell(names[layer.layer_id], layer.class_name, layer.macs, detail))
    return Count(result.total_mult_adds, result.total_params, tuple(cells))


def _family(module: nn.Module) -> str:
    name = type(module).__name__
    if "Conv" in name:
        return "transposed convolution" if "Transpose" in name else "convolution"
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, nn.RNNBase):
        return "recurrent"
    return "linear" if isinstance(module, nn.Linear) else "normalisation" if "Norm" in name else "other"


def explain(trace: Trace, count: Count) -> list[Part]:
    """The rule of torchinfo/layer_info.py (calculate_macs): what weights and biases add, against ours."""
    work = Contractions(trace)
    parts: list[Part] = []
    weights: dict[tuple[str, str], int] = defaultdict(int)
    for cell in count.cells:
        family = cell.detail["family"]
        weight, bias = _expected(cell)
        weights[cell.module, family] += weight
        parts.append(Part(cell.module, family, _ADDED.get(family, "counts bias"), bias))
    for (module, family), amount in weights.items():
        ours = [w for w in work.at(module) if w.op.phase == "forward"]
        cause = _cause(family, {w.kind for w in ours})
        if cause is not None and amount:
            parts.append(Part(module, family, cause, amount - sum(w.macs for w in ours)))
    parts += _missing(work, {module for (module, _), amount in weights.items() if amount})
    return [part for part in parts if part.amount]


_ADDED = {"normalisation": "counts normalisation", "embedding": "counts embedding"}


def _cause(family: str, kinds: set[str]) -> str | None:
    """Why the weights of a module give another number than ours, which ran contractions of `kinds`."""
    if family == "transposed convolution":
        return "transposed convolution over-counted by its stride"
    if kinds == {"linear"}:
        by_name = family == "convolution"
        return "taken for a convolution by its name" if by_name else "Linear counted once per sample"
    return _ADDED.get(family, "counts other pointwise work") if not kinds else None


def _expected(cell: Cell) -> tuple[int, int]:
    """What the rule gives for weights and for biases in one call: Conv* all output positions of all
    samples, a recurrent layer the first two dimensions, everything else the first one."""
    output, family = cell.detail["output"], cell.detail["family"]
    positions = output[0] if output else 0
    if "convolution" in family:
        positions = prod(output[:1] + output[2:])
    weight = bias = 0
    for name, numel in cell.detail["sizes"].items():
        if name in ("weight", "bias"):
            times = positions
        elif "weight" in name or "bias" in name:
            times = prod(output[:2])
        else:
            continue
        if "bias" in name:
            bias += times * numel
        else:
            weight += times * numel
    return weight, bias


def _missing(work: Contractions, seen: set[str]) -> Iterator[Part]:
    for w in work.all:
        if w.op.phase == "forward" and w.module not in seen:
            yield Part(w.module, w.kind, unhooked(w, work), -w.macs)


COUNTER = Counter(
    name="torchinfo",
    unit="MAC",
    convention="weights and biases of leaf modules: Conv* times output positions, all others times the batch",
    source="torchinfo 1.8.0: torchinfo/layer_info.py, torchinfo/model_statistics.py",
    run=run,
    explain=explain,
    package="torchinfo",
)
