"""Does a random input reach the end of the model, and its gradient the start?"""

from __future__ import annotations

from collections.abc import Iterator

from inspector.initialization.probe import BATCH_VALUES
from inspector.initialization.signal import (
    EXPLODES,
    FP16_MAX,
    GRADIENT_EXPLODES,
    GRADIENT_VANISHES,
    VANISHES,
    Signal,
)
from inspector.reporting.checks import check, failed, passed, skipped, warned
from inspector.reporting.report import Finding


@check
def propagation(signal: Signal) -> Iterator[Finding]:
    """A random input reaches the end of the model, and its gradient the start.

    Fails: an output or a gradient that is not finite; a model output that is the same for all samples; a
    gradient that is exactly zero in the first layer. Warns where the spread explodes, vanishes or leaves
    the range of float16. A head, branch or gate that starts at zero is no fault: it is named, and gradients
    that are exactly zero for it are not judged.
    """
    if not signal.layers:
        yield skipped("no layer with weights ran")
        return
    faults = [*_dead(signal), *(_described(flag, signal) for flag in _MESSAGES if signal.flagged(flag))]
    yield from faults or [passed(_summary(signal))]
    yield from _limits(signal)


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


def _described(flag: str, signal: Signal) -> Finding:
    """One finding for a flag, about its first layer."""
    group, layers = signal.flagged(flag), signal.layers
    first = group[0]
    status, _, message = _MESSAGES[flag].partition(": ")
    if flag == "gradient is zero" and first is not next(item for item in layers if item.arrived):
        status = "warn"  # the layers before it get their gradient by another way
    others = f" ({len(group)} of {len(layers)} layers)" if len(group) > 1 else ""
    return (failed if status == "fail" else warned)(
        message.format(**vars(first)) + others,
        first.module,
        flag=flag,
        layers=len(group),
        forward_std=first.std,
        backward_std=first.gradient,
    )


def _dead(signal: Signal) -> Iterator[Finding]:
    """The finding that the model's output does not depend on its input.

    A head that starts at zero is no reason to fail: the layers before it tell the samples apart, and
    it learns in the first step. Zeros that are fed to later layers with weights are one.
    """
    if not signal.same:
        return
    layers = signal.layers
    first = next((position for position, layer in enumerate(layers) if layer.zero), None)
    fed = layers if first is None else layers[first:]
    if first is not None and not any(layer.repeats and not layer.zero for layer in fed):
        return
    culprit = next((layer for layer in fed if layer.repeats), layers[-1])
    message = "the model's output is the same for all samples of a random batch: the signal dies here"
    yield failed(message, culprit.module, flag="dead", forward_std=culprit.std)


def _limits(signal: Signal) -> Iterator[Finding]:
    """What was not judged, and why."""
    if signal.stopped:
        yield skipped(f"gradients were not measured: {signal.stopped}")
        return
    if signal.starved:
        message = (
            f"normalises over fewer than {BATCH_VALUES} values per channel, so its gradient says "
            "nothing: layers before it are not judged by theirs (give a larger batch or image)"
        )
        yield skipped(message, next(iter(signal.starved)), layers=len(signal.starved))
    if signal.zeros:
        message = f"starts at zero ({len(signal.zeros)} do): gradients that are exactly zero are not judged"
        yield skipped(message, signal.zeros[0], parameters=signal.zeros[:5])


def _summary(signal: Signal) -> str:
    stds = [layer.std for layer in signal.layers if layer.std]
    gradients = [layer.gradient for layer in signal.layers if layer.gradient]
    count, scaled = len(signal.layers), len(signal.flagged("underflows fp16"))
    text = f"{count} layers: forward std {min(stds):.2g} to {max(stds):.2g}" if stds else "no signal"
    text += f", gradient std {min(gradients):.2g} to {max(gradients):.2g}" if gradients else ""
    return text + (f"; {scaled} need a scaled loss in float16" if scaled else "")
