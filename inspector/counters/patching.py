"""What calflops and DeepSpeed share: both replace functions of torch while the model runs."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from inspector.counters.operators import Contractions, Work, unpriced
from inspector.counters.record import Cell, Count, Part
from inspector.tracing.record import Trace

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"}


def cells(model: nn.Module) -> tuple[Cell, ...]:
    """The MACs that each module's own function calls added (the attribute that both leave on it)."""
    values = ((path, int(getattr(module, "__macs__", 0))) for path, module in model.named_modules())
    return tuple(Cell(path, "functions", value) for path, value in values if value)


def explainer(patched: set[str]) -> Callable[[Trace, Count], list[Part]]:
    """Every contraction whose function is not among `patched` is missing."""

    def explain(trace: Trace, count: Count) -> list[Part]:
        work = Contractions(trace)
        forward = [w for w in work.all if w.op.phase == "forward"]
        return [Part(w.module, w.kind, unpriced(w), -w.macs) for w in forward if _function(w) not in patched]

    return explain


def _function(w: Work) -> str:
    """The function that the model, or multi-head attention inside torch, called."""
    inner = w.op.group == "multi_head_attention_forward"
    if inner:
        return "linear" if w.kind == "linear" else w.op.name.removeprefix("aten.")
    return w.op.group
