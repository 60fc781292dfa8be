"""What one seeded training step shows about each layer: the spread of its output and of its gradient."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError, first_line
from inspector.initialization.probe import Layer, Probe, is_signal, repeats, std_of
from inspector.tracing._torch import tree_leaves, tree_map
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.isolate import preserved, random_state, seed_all, swap_state

EXPLODES = 1e4
"""Forward std over the input's. Normalised and residual networks stay within 100; a product of depth
that has reached 10^4 keeps growing."""
VANISHES = 1e-6
"""Forward std over the input's: below float32's resolution (2^-20) beside a signal of the input's size."""
FP16_MAX = 65504.0
"""Largest float16: a larger activation is inf under autocast."""
GRADIENT_EXPLODES = 1e4
"""Gradient std over that at the end of the model: the same reasoning, the other way."""
GRADIENT_VANISHES = 1e-6
"""Gradient std over that at the end of the model: such layers hardly learn while the last one does."""
MOST = 0.5
"""Share of the non-zero gradient elements below FP16_TINY from which the layer is flagged."""


@dataclass(frozen=True)
class Signal:
    """`layers` in the order of execution, with their flags; `same`: all samples give the same output;
    `stopped` says why there was no backward. `zeros` are parameters that start at zero, `starved` the batch
    norms over too few values."""

    layers: list[Layer]
    same: bool
    stopped: str
    zeros: list[str]
    starved: Mapping[str, int]

    def flagged(self, flag: str) -> list[Layer]:
        return [layer for layer in self.layers if flag in layer.flags]


def measure(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int) -> Signal:
    """One forward and backward on the CPU in train mode (see `propagation.propagate`)."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        model = copy.deepcopy(model)  # its state cannot be swapped
    probe = Probe()
    with ExitStack() as stack:
        for guard in (preserved(model), random_state(), torch.inference_mode(False), torch.enable_grad()):
            stack.enter_context(guard)
        inputs = tree_map(_copy, (tuple(args), dict(kwargs)))
        swap_state(model, "cpu")
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        model.train()
        probe.watch(model)
        seed_all(seed)
        try:
            outputs = model(*inputs[0], **inputs[1])
        except Exception as error:
            raise InspectError(
                f"the training forward raised {type(error).__name__}: {first_line(error)}",
                "pass inputs that the model can train on: `inputs=`",
            ) from error
        probe.forward = False
        stopped, start = _backward(outputs, seed)
    layers = probe.layers()
    _flag_forward(layers, _reference(inputs))
    behind = max(probe.starved.values(), default=0)
    late = set(list(probe.seen)[behind:])
    _flag_backward([layer for layer in layers if layer.module in late], start, bool(probe.zeros))
    return Signal(layers, _same_for_all(inputs, outputs), stopped, probe.zeros, probe.starved)


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def _backward(outputs: Any, seed: int) -> tuple[str, float]:
    """Run the backward: why there is none, and the std of the gradient that it starts with."""
    roots = [root for root in differentiable(outputs) if root.numel()]
    if not roots:
        return "no output requires grad", 0.0
    generator = torch.Generator().manual_seed(seed)
    gradients = [_projection(root, generator) for root in roots]
    try:
        torch.autograd.backward(roots, gradients)
    except Exception as error:
        return f"the backward raised {type(error).__name__}: {first_line(error)}", 0.0
    return "", max(std_of(gradient) or 0.0 for gradient in gradients)


def _projection(output: Tensor, generator: torch.Generator) -> Tensor:
    """The gradient of the loss by an output: 1 for a scalar, else of norm 1 a sample, mean of samples."""
    if output.dim() == 0:
        return torch.ones_like(output)
    random = torch.randn(output.shape, generator=generator)
    samples = output.shape[0]
    return (random / math.sqrt(output.numel() / samples) / samples).to(output.dtype)


def _reference(inputs: Any) -> float | None:
    """Std of the first float input, the size that the signal starts with."""
    stds = (std_of(leaf) for leaf in tree_leaves(inputs) if is_signal(leaf))
    return next((std for std in stds if std), None)


def _same_for_all(inputs: Any, outputs: Any) -> bool:
    """Whether different samples give exactly the same outputs; False where that cannot be told."""
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    batch = tensors[0].shape[0] if tensors else 0
    results = [root for root in differentiable(outputs) if root.dim() and root.shape[0] == batch]
    if batch < 2 or not results or all(repeats(leaf) for leaf in tensors):
        return False
    return all(repeats(result) for result in results)


def _flag_forward(layers: list[Layer], reference: float | None) -> None:
    start = reference or next((layer.std for layer in layers if layer.std), 1.0)
    for layer in layers:
        if not math.isfinite(layer.peak):
            layer.flags.append("not finite")
            continue
        if layer.zero:
            layer.flags.append("starts at zero")
        elif layer.std is not None and layer.std < VANISHES * start:
            layer.flags.append("vanishes")
        if layer.std is not None and layer.std > EXPLODES * start:
            layer.flags.append("explodes")
        if layer.peak > FP16_MAX:
            layer.flags.append("saturates fp16")


def _flag_backward(layers: list[Layer], start: float, excused: bool) -> None:
    """Flag gradients against that at the end: of the output, or of the last layer which has one, the
    larger (the last layer may be a branch that starts small). A small gradient behind a layer that
    gets a large one is a branch that starts small (the layer scale of ConvNeXt), not fading with depth."""
    gradients = [layer.gradient for layer in layers if layer.gradient]
    last = max(start, next((gradient for gradient in reversed(gradients) if math.isfinite(gradient)), 0.0))
    fading = True
    for layer in layers:
        if layer.gradient is None:
            continue
        if not math.isfinite(layer.gradient):
            layer.flags.append("gradient not finite")
        elif layer.gradient == 0.0:
            layer.flags += [] if excused else ["gradient is zero"]
        elif layer.gradient < GRADIENT_VANISHES * last:
            layer.flags += ["gradient vanishes"] if fading else []
        elif layer.gradient > GRADIENT_EXPLODES * last:
            layer.flags.append("gradient explodes")
        if layer.tiny > MOST:
            layer.flags.append("underflows fp16")
        if layer.lost > MOST:
            layer.flags.append("underflows scaled fp16")
        fading &= layer.gradient < GRADIENT_VANISHES * last
