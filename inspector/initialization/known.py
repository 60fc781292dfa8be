"""The laws that a tensor may have instead: what `auto` tries, and what a wrong tensor looks like."""

from __future__ import annotations

import math
from collections.abc import Iterator

from inspector.initialization import laws
from inspector.initialization.laws import Law
from inspector.initialization.schemes import CUT, Choice, default_law
from inspector.initialization.targets import Target

SLOPES = (0.0, 1.0, math.sqrt(5), 0.01, 0.1, 0.2)
"""Slopes of leaky ReLU in use; 1 is the linear gain, sqrt(5) torch's default."""
GAINS = (1.0, math.sqrt(2), 5 / 3, 0.01, 0.1, 0.5)
"""torch's gains for linear, relu and tanh, and scales that heads use."""
STDS = (0.02, 0.01, 0.001, 1e-6, 1.0)
"""Of transformers, classification heads, detectors, ViT's MLP biases, embeddings."""
TRUNCATED = 0.87962566103423978
"""Standard deviation of a standard normal cut at +-2: JAX's and timm's variance scaling divides by it."""


def candidates(target: Target) -> list[Law]:
    """Every known law for this tensor, the first of numerically equal ones first."""
    listed: list[Law] = []
    default = default_law(target)
    if default is not None:
        listed.append(default)
    if target.fans is not None and target.role in ("weight", "other"):
        listed += _scaled_by_fans(target)
    listed += [laws.normal(std, f"normal std={std:.4g}") for std in STDS]
    listed.append(laws.normal(0.02, "trunc_normal std=0.02", cut=CUT))
    return [law for law in listed if law.random and law.scale > 0]


def _scaled_by_fans(target: Target) -> Iterator[Law]:
    assert target.fans is not None
    for mode, fan in fan_modes(target):
        for a in (0.0, 1.0, math.sqrt(5)):
            if not (a > 2 and mode == "fan_in" and default_law(target) is not None):
                yield laws.kaiming_uniform(a, fan, f"kaiming_uniform a={laws.slope(a)} {mode}")
        for a in (0.0, 1.0):
            yield laws.kaiming_normal(a, fan, f"kaiming_normal a={laws.slope(a)} {mode}")
        if mode == "fan_in":
            std = 1 / math.sqrt(fan) / TRUNCATED
            yield laws.normal(std, "lecun_normal fan_in", cut=2 * std)
    both = target.fans.fan_in + target.fans.fan_out
    yield laws.xavier_uniform(1.0, both, "xavier_uniform")
    yield laws.xavier_normal(1.0, both, "xavier_normal")


def fan_modes(target: Target) -> Iterator[tuple[str, float]]:
    """torch's two fans, and the effective ones where they differ from both."""
    fans = target.fans
    if fans is None or not fans.fan_in or not fans.fan_out:
        return
    yield "fan_in", fans.fan_in
    yield "fan_out", fans.fan_out
    for mode, fan in (("effective fan_in", fans.effective_in), ("effective fan_out", fans.effective_out)):
        if fan not in (fans.fan_in, fans.fan_out):
            yield mode, fan


def other_fans(target: Target, choice: Choice) -> Iterator[Law]:
    """The same scheme with another fan."""
    uniform = {
        "kaiming_uniform": True,
        "c2_xavier_fill": True,
        "kaiming_normal": False,
        "c2_msra_fill": False,
    }
    name = choice.scheme.name
    if name in uniform:
        a = choice.options.get("a", 1.0 if uniform[name] else 0.0)
        expected = choice.options.get("mode", "fan_out" if name == "c2_msra_fill" else "fan_in")
        law = laws.kaiming_uniform if uniform[name] else laws.kaiming_normal
        for mode, fan in fan_modes(target):
            if mode != expected:
                yield law(a, fan, mode)
    elif name.startswith("xavier") and target.fans is not None and target.fans.differ:
        both = target.fans.effective_in + target.fans.effective_out
        xavier = laws.xavier_uniform if name == "xavier_uniform" else laws.xavier_normal
        yield xavier(choice.options["gain"], both, "the effective fans")


def other_gains(target: Target, choice: Choice, expected: Law) -> Iterator[Law]:
    """The same scheme with another a or gain."""
    if "a" in choice.options or choice.scheme.name.startswith("c2_"):
        own = choice.options.get("a", 1.0 if expected.family == "uniform" else 0.0)
        for a in SLOPES:
            if not math.isclose(a, own):
                scale = expected.scale * laws.kaiming_gain(a) / laws.kaiming_gain(own)
                label = f"a={laws.slope(a)} instead of a={laws.slope(own)}"
                yield Law(expected.family, scale, label)
    elif "gain" in choice.options and expected.family != "orthogonal":
        for gain in GAINS:
            if not math.isclose(gain, choice.options["gain"]):
                scale = expected.scale * gain / choice.options["gain"]
                yield Law(expected.family, scale, f"gain={gain:.4g} instead of {choice.options['gain']:.4g}")


def rescaled(expected: Law, rms: float) -> Law:
    """The expected law's shape with the measured standard deviation."""
    ratio = rms / expected.std
    return Law(expected.family, expected.scale * ratio, "", expected.cut * ratio)
