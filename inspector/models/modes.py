"""Which modules behave differently in train and eval mode, and how."""

from __future__ import annotations

from collections.abc import Iterator
from inspect import unwrap
from typing import Any

from torch import nn

from inspector.tracing._torch import DropoutNd, InstanceNorm, NormBase


def mode_sensitive(model: nn.Module) -> Iterator[dict[str, Any]]:
    """A row for each module that `train()` and `eval()` change: module, type, mode (now), train, eval.

    Known classes are described; any other class whose forward reads `self.training` is named.
    """
    for path, module in model.named_modules():
        change = _change(module)
        if change is not None:
            yield {
                "module": path,
                "type": type(module).__name__,
                "mode": "train" if module.training else "eval",
                "train": change[0],
                "eval": change[1],
            }


def _change(module: nn.Module) -> tuple[str, str] | None:
    if isinstance(module, NormBase):
        return _normalisation(module)
    if isinstance(module, DropoutNd):
        return (f"zeroes with p={module.p:g}, scales the rest", "identity") if module.p else None
    if isinstance(module, nn.RReLU):
        return f"slope drawn from [{module.lower:.3g}, {module.upper:.3g}]", "mean slope"
    if isinstance(module, nn.MultiheadAttention):
        if module.dropout:
            return f"dropout p={module.dropout:g} on the weights", "no dropout; fused path possible"
        return None
    if isinstance(module, nn.RNNBase):
        if module.dropout and module.num_layers > 1:
            return f"dropout p={module.dropout:g} between layers", "no dropout"
        return None
    rate = getattr(module, "p", getattr(module, "drop_prob", None))
    if type(module).__name__ in ("StochasticDepth", "DropPath"):
        return (f"drops the branch with p={rate:g}", "keeps the branch") if rate else None
    if reads_training(type(module)):
        return "forward reads self.training", "forward reads self.training"
    return None


def _normalisation(module: NormBase) -> tuple[str, str] | None:
    if isinstance(module, InstanceNorm) and not module.track_running_stats:
        return None
    if module.running_mean is None:
        return None
    average = "cumulative" if module.momentum is None else f"momentum {module.momentum:g}"
    return f"batch statistics; updates running ones ({average})", "running statistics"


def reads_training(cls: type) -> bool:
    """Whether the forward of a class looks at self.training."""
    if cls.__module__.startswith(("torch.nn.modules.container", "torch.nn.modules.transformer")):
        return False
    forward = getattr(cls, "forward", None)  # a scripted module's class has none
    code = getattr(unwrap(forward), "__code__", None) if callable(forward) else None
    return code is not None and "training" in code.co_names
