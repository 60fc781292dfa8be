"""Signal propagation at initialisation: does a random input reach the end, and its gradient the start?

One seeded forward and backward on the CPU in train mode. With independent weights of variance s^2 a
linear layer with ReLU multiplies the second moment of its input by fan_in * s^2 / 2 (He et al. 2015,
section 2.2): 1 under kaiming_normal_; any other factor is raised to the power of the depth.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from inspector.core.errors import InspectError
from inspector.initialization.probe import BATCH_VALUES, Layer, Probe, is_signal, repeats, std_of
from inspector.models.inputs import first_line
from inspector.reporting.report import Finding
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.isolate import preserved, random_state, seed_all, swap_state

EXPLODES = 1e4
"""Forward std over the input's. Normalised and residual networks stay within 100; a product of depth
that has reached 10^4 goes on."""
VANISHES = 1e-6
"""Forward std over the input's: below float32's resolution (2^-20) beside a signal of the input's size."""
FP16_MAX = 65504.0
"""Largest float16: a larger activation is inf under autocast."""
GRADIENT_EXPLODES = 1e4
"""Gradient std over that at the end of the model: the same reasoning, the other way."""
GRADIENT_VANISHES = 1e-6
"""Gradient std over that at the end of the model: such layers stand still while the last one learns."""
MOST = 0.5
"""Share of the non-zero gradient elements below FP16_TINY from which the layer is flagged."""

WIDTH = 24
"""Characters of the longest bar."""
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Propagation:
    """`rows`, one a layer with weights, in the order of execution: module, type, calls, forward_std
    (about the mean), forward_max (of |x|), backward_std (of the gradient of the output; None where
    none arrives), flag, plot (a bar over log10 of forward_std on the scale of all rows). A layer that
    is called several times shows its first call. `findings`: check `propagation`."""

    rows: list[dict[str, Any]]
    findings: list[Finding]


def propagate(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int = 0
) -> Propagation:
    """Measure each layer's output and gradient in one seeded training step without the optimizer.

    The loss is the model's own, or a random projection of its float outputs whose gradient has norm 1
    for each sample, averaged over the batch, as cross-entropy has. Frozen parameters take part. Inputs
    are copied to the CPU; model, random state and inputs are the same afterwards.

    Fails: an output or a gradient that is not finite; a model output that is the same for all samples;
    a gradient that is exactly zero in the first layer. A head, branch or gate that starts at zero is
    no fault: it is named, and gradients that are exactly zero for it are not judged. Warns: see the
    limits at the head of this file.

    Raises InspectError where the model does not run.
    """
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
                "give larger or other inputs with `inputs=`",
            ) from error
        probe.forward = False
        stopped, start = _backward(outputs, seed)
    same = _same_for_all(inputs, outputs)
    return _judged(probe, _Ends(_reference(inputs), start, same, stopped))


@dataclass(frozen=True)
class _Ends:
    """What goes in and out: std of the input (None for tokens), std of the gradient that the backward
    starts with (0 for a loss), whether all samples give the `same` output, why the backward `stopped`."""

    signal: float | None
    gradient: float
    same: bool
    stopped: str


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
    given = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    batch = given[0].shape[0] if given else 0
    results = [root for root in differentiable(outputs) if root.dim() and root.shape[0] == batch]
    if batch < 2 or not results or all(repeats(leaf) for leaf in given):
        return False
    return all(repeats(result) for result in results)


def _judged(probe: Probe, ends: _Ends) -> Propagation:
    layers = probe.layers()
    if not layers:
        return Propagation([], [_finding("skip", "", "no layer with weights ran")])
    behind = max(probe.starved.values(), default=0)
    late = set(list(probe.seen)[behind:])
    judged = [layer for layer in layers if layer.module in late]
    _flag_forward(layers, ends.signal)
    _flag_backward(judged, ends.gradient, bool(probe.zeros))
    found = _dead(layers, ends.same) + [_told(flag, layers) for flag in _MESSAGES if _with(flag, layers)]
    found = found or [_finding("pass", "", _summary(layers))]
    return Propagation(_rows(layers), found + _limits(probe, ends.stopped))


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
    gets a good one is a branch that starts small (the layer scale of ConvNeXt), no fading with depth."""
    given = [layer.gradient for layer in layers if layer.gradient]
    last = max(start, next((gradient for gradient in reversed(given) if math.isfinite(gradient)), 0.0))
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


_MESSAGES = {
    "not finite": "fail: an output holds inf or NaN",
    "gradient not finite": "fail: the gradient of the output holds inf or NaN",
    "gradient is zero": "fail: the gradient of the output is exactly zero",
    "explodes": f"warn: forward std {{std:.3g}} is over {EXPLODES:.0e} times that of the input",
    "vanishes": f"warn: forward std {{std:.3g}} is under {VANISHES:.0e} times that of the input",
    "saturates fp16": f"warn: |x| reaches {{peak:.3g}}, over float16's {FP16_MAX:.0f}",
    "gradient explodes": (
        f"warn: gradient std {{gradient:.3g}} is over {GRADIENT_EXPLODES:.0e} times that at the end"
    ),
    "gradient vanishes": (
        f"warn: gradient std {{gradient:.3g}} is under {GRADIENT_VANISHES:.0e} times that at the end"
    ),
    "underflows scaled fp16": (
        "warn: {lost:.0%} of the gradient is under float16's smallest number (2^-24), also when the loss "
        "is scaled by 2^16"
    ),
}
"""Status and message of each flag that is a finding, about the first layer that has it."""


def _told(flag: str, layers: list[Layer]) -> Finding:
    """One finding for a flag, about its first layer."""
    group = _with(flag, layers)
    first = group[0]
    status, _, message = _MESSAGES[flag].partition(": ")
    if flag == "gradient is zero" and first is not next(item for item in layers if item.arrived):
        status = "warn"  # the layers before it get their gradient by another way
    others = f" ({len(group)} of {len(layers)} layers)" if len(group) > 1 else ""
    said = message.format(**vars(first)) + others
    evidence = {"flag": flag, "layers": len(group), "forward_std": first.std, "backward_std": first.gradient}
    return _finding(status, first.module, said, evidence)


def _with(flag: str, layers: list[Layer]) -> list[Layer]:
    return [layer for layer in layers if flag in layer.flags]


def _dead(layers: list[Layer], same: bool) -> list[Finding]:
    """The finding that the model's output does not depend on its input.

    A head that starts at zero is no reason to fail: the layers before it tell the samples apart, and
    it learns in the first step. Zeros that later layers with weights are fed are one.
    """
    if not same:
        return []
    first = next((position for position, layer in enumerate(layers) if layer.zero), None)
    fed = layers if first is None else layers[first:]
    if first is not None and not any(layer.repeats and not layer.zero for layer in fed):
        return []
    culprit = next((layer for layer in fed if layer.repeats), layers[-1])
    message = "the model's output is the same for all samples of a random batch: the signal dies here"
    return [_finding("fail", culprit.module, message, {"flag": "dead", "forward_std": culprit.std})]


def _limits(probe: Probe, stopped: str) -> list[Finding]:
    """What was not judged, and why."""
    found = []
    if stopped:
        found.append(_finding("skip", "", f"gradients were not measured: {stopped}"))
    elif probe.starved:
        first = next(iter(probe.starved))
        message = (
            f"normalises over fewer than {BATCH_VALUES} values a channel, whose gradient says "
            "nothing: layers before it are not judged by theirs (give a larger batch or image)"
        )
        found.append(_finding("skip", first, message, {"layers": len(probe.starved)}))
    if probe.zeros and not stopped:
        message = f"starts at zero ({len(probe.zeros)} do): gradients that are exactly zero are not judged"
        found.append(_finding("skip", probe.zeros[0], message, {"parameters": probe.zeros[:5]}))
    return found


def _summary(layers: list[Layer]) -> str:
    stds = [layer.std for layer in layers if layer.std]
    gradients = [layer.gradient for layer in layers if layer.gradient]
    said = f"{len(layers)} layers: forward std {min(stds):.2g} to {max(stds):.2g}" if stds else "no signal"
    said += f", gradient std {min(gradients):.2g} to {max(gradients):.2g}" if gradients else ""
    scaled = len(_with("underflows fp16", layers))
    return said + (f"; {scaled} need a scaled loss in float16" if scaled else "")


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


def _finding(status: str, subject: str, message: str, evidence: dict[str, Any] | None = None) -> Finding:
    return Finding("propagation", status, subject, message, evidence or {})
