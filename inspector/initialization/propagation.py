"""Signal propagation at initialisation: does a random input reach the end, and its gradient the start?

One seeded forward and backward on the CPU in train mode. With independent weights of variance s^2 a
linear layer with ReLU multiplies the second moment of its input by fan_in * s^2 / 2 (He et al. 2015,
section 2.2): 1 under kaiming_normal_; any other factor is raised to the power of the depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from inspector.initialization.checks.propagation import propagation
from inspector.initialization.probe import Layer
from inspector.initialization.signal import measure
from inspector.reporting.report import Finding

WIDTH = 24
"""Characters of the longest bar."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Propagation:
    """`rows`, one a layer with weights, in the order of execution: module, type, calls, forward_std
    (about the mean), forward_max (of |x|), backward_std (of the gradient of the output; None where
    none arrives), flag, plot (a bar over log10 of forward_std on the scale of all rows). A layer that
    is called several times shows its first call. `findings` are those of the check `propagation`."""

    rows: list[dict[str, Any]]
    findings: list[Finding]


def propagate(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int = 0
) -> Propagation:
    """Measure each layer's output and gradient in one seeded training step without the optimizer.

    The loss is the model's own, or a random projection of its float outputs whose gradient has norm 1
    for each sample, averaged over the batch, as cross-entropy has. Frozen parameters take part. Inputs
    are copied to the CPU; model, random state and inputs are the same afterwards.

    Raises InspectError where the model does not run.
    """
    signal = measure(model, args, kwargs, seed)
    return Propagation(_rows(signal.layers), propagation(signal))


def _rows(layers: list[Layer]) -> list[dict[str, Any]]:
    logs = [math.log10(layer.std) for layer in layers if layer.std and math.isfinite(layer.std)]
    low, high = (math.floor(min(logs)), math.ceil(max(logs))) if logs else (0, 1)
    return [
        {
            "module": layer.module,
            "type": layer.type,
            "calls": layer.calls,
            "forward_std": layer.std,
            "forward_max": layer.peak,
            "backward_std": layer.gradient,
            "flag": ", ".join(layer.flags),
            "plot": _bar(layer.std, low, max(high, low + 1)),
        }
        for layer in layers
    ]


def _bar(std: float | None, low: int, high: int) -> str:
    """A bar of log10(std) between two decades: full for inf and NaN, empty for zero and nothing."""
    if not std:
        return ""
    share = (math.log10(std) - low) / (high - low) if math.isfinite(std) else 1.0
    whole, eighths = divmod(max(1, round(share * WIDTH * 8)), 8)
    return "█" * whole + _EIGHTHS[eighths].strip()
