"""One scalar to train on, whatever a model returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from inspector.tracing.capture import differentiable
from inspector.tracing.values import floats


def loss_of(outputs: Any, labels: Tensor | None = None) -> Tensor:
    """One scalar that depends on every float output, the same for every precision.

    The model's own losses (scalars) are added; logits of shape (N, C) get a cross-entropy with `labels`
    (modulo C; without them fixed classes); anything else a squared distance from a fixed ramp. Raises
    RuntimeError without any.
    """
    roots = differentiable(outputs) if torch.is_grad_enabled() else floats(outputs)
    if not roots:
        raise RuntimeError("no output requires grad: there is nothing to train")
    total = _term(roots[0], labels)
    for root in roots[1:]:
        total = total + _term(root, labels)
    return total


def _term(root: Tensor, labels: Tensor | None) -> Tensor:
    value = root if root.dtype == torch.float64 else root.float()
    if value.dim() == 0:
        return value
    if value.dim() == 2 and value.shape[1] > 1:
        count = value.shape[0]
        if labels is None or len(labels) != count:
            labels = torch.arange(count, device=value.device) * 7
        return functional.cross_entropy(value, labels % value.shape[1])
    ramp = torch.linspace(-1, 1, value.numel(), device=value.device, dtype=value.dtype)
    return (value - ramp.reshape(value.shape)).square().mean()
