"""Laws: the distribution that a scheme gives one tensor, with its parameters known.

All laws here have mean 0 except `constant`. A law says what torch's generator is asked for; what a
dtype makes of it (rounding, coarse grids) is the business of `statistics`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NEVER = 8.0
"""A cut at this many standard deviations is never reached: P(|w| > 8 sigma) is 1e-15."""


@dataclass(frozen=True)
class Law:
    """One of: uniform on [-scale, scale]; normal with std `scale`, drawn again beyond +-`cut` where that
    is finite; constant `scale`; orthogonal with W W^T = scale^2 I, whose elements have the root mean
    square `rms`. `label` is the name that a reader knows, e.g. "kaiming_uniform a=1 fan_in"."""

    family: str
    scale: float
    label: str = ""
    cut: float = math.inf
    rms: float = 0.0

    @property
    def random(self) -> bool:
        return self.family != "constant"

    @property
    def bound(self) -> float:
        """No element is larger than this in magnitude."""
        if self.family == "normal":
            return self.cut
        return abs(self.scale)

    @property
    def std(self) -> float:
        """The root mean square of an element: the standard deviation, but for constants."""
        if self.family == "uniform":
            return self.scale / math.sqrt(3)
        if self.family == "normal":
            return self.scale * math.sqrt(self._moments()[0])
        return self.rms if self.family == "orthogonal" else abs(self.scale)

    @property
    def kurtosis(self) -> float:
        """E[w^4] / E[w^2]^2: 1.8 for uniform, 3 for normal, less where the tails are cut."""
        if self.family == "uniform":
            return 1.8
        second, fourth = self._moments()
        return fourth / second**2

    def _moments(self) -> tuple[float, float]:
        """E[x^2] and E[x^4] of a standard normal cut at +-c, by partial integration of x^n phi(x)."""
        c = self.cut / self.scale
        if c >= NEVER:
            return 1.0, 3.0
        density = math.exp(-c * c / 2) / math.sqrt(2 * math.pi)
        inside = math.erf(c / math.sqrt(2))
        second = 1 - 2 * c * density / inside
        return second, 3 * second - 2 * c**3 * density / inside

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """P(w <= x) of a uniform or a normal law."""
        if self.family == "uniform":
            return np.clip((x / self.scale + 1) / 2, 0, 1)
        from scipy.special import ndtr

        below = ndtr(np.clip(x, -self.cut, self.cut) / self.scale)
        if self.cut / self.scale >= NEVER:
            return below
        low = ndtr(-self.cut / self.scale)
        return (below - low) / (1 - 2 * low)

    def outside(self, magnitude: float) -> float:
        """P(|w| > magnitude), accurate in the tail."""
        if self.family == "uniform":
            return max(0.0, 1 - magnitude / self.scale)
        if magnitude >= self.cut:
            return 0.0
        beyond = math.erfc(magnitude / self.scale / math.sqrt(2))
        cut = math.erfc(self.cut / self.scale / math.sqrt(2)) if math.isfinite(self.cut) else 0.0
        return (beyond - cut) / (1 - cut)

    def same(self, other: Law) -> bool:
        """Whether both are numerically one law, whatever they are called."""
        if self.family != other.family or not math.isclose(self.scale, other.scale, rel_tol=1e-9):
            return False
        cuts = [min(law.cut / law.scale, NEVER) if law.family == "normal" else 0.0 for law in (self, other)]
        return math.isclose(cuts[0], cuts[1], rel_tol=1e-9)

    @property
    def text(self) -> str:
        """The law with its numbers, e.g. "uniform +-0.0773"."""
        if self.family == "uniform":
            return f"uniform +-{self.scale:.4g}"
        if self.family == "normal":
            cut = f" cut at +-{self.cut:.4g}" if math.isfinite(self.cut) else ""
            return f"normal std {self.scale:.4g}{cut}"
        return f"{self.family} {self.scale:.4g}"

    @property
    def named(self) -> str:
        """The label and the numbers, for messages."""
        return f"{self.label} ({self.text})" if self.label else self.text


def uniform(bound: float, label: str = "") -> Law:
    return Law("uniform", bound, label)


def normal(std: float, label: str = "", cut: float = math.inf) -> Law:
    return Law("normal", std, label, cut)


def constant(value: float, label: str = "") -> Law:
    return Law("constant", value, label or {0.0: "zeros", 1.0: "ones"}.get(value, f"constant {value:.4g}"))


def orthogonal(gain: float, shape: tuple[int, ...], label: str = "orthogonal") -> Law:
    """Rows (or columns, whichever are fewer) are orthogonal and of length `gain`: Saxe et al. 2013."""
    rows = shape[0]
    columns = math.prod(shape[1:])
    return Law("orthogonal", gain, label, rms=gain / math.sqrt(max(rows, columns, 1)))


def kaiming_gain(a: float) -> float:
    """sqrt(2 / (1 + a^2)) for leaky ReLU with slope a: He et al. 2015, equation 15."""
    return math.sqrt(2 / (1 + a * a))


def kaiming_uniform(a: float, fan: float, label: str = "") -> Law:
    """Bound sqrt(3) * gain / sqrt(fan)."""
    return uniform(math.sqrt(3) * kaiming_gain(a) / math.sqrt(fan), label)


def kaiming_normal(a: float, fan: float, label: str = "") -> Law:
    """Standard deviation gain / sqrt(fan)."""
    return normal(kaiming_gain(a) / math.sqrt(fan), label)


def xavier_uniform(gain: float, fans: float, label: str = "") -> Law:
    """Bound gain * sqrt(6 / (fan_in + fan_out)): Glorot & Bengio 2010, equation 16."""
    return uniform(gain * math.sqrt(6 / fans), label)


def xavier_normal(gain: float, fans: float, label: str = "") -> Law:
    """Standard deviation gain * sqrt(2 / (fan_in + fan_out))."""
    return normal(gain * math.sqrt(2 / fans), label)


def slope(a: float) -> str:
    """A slope as people write it: 0, 1, sqrt(5)."""
    return "sqrt(5)" if math.isclose(a, math.sqrt(5), rel_tol=1e-6) else f"{a:.4g}"


def plain(value: float) -> float | None:
    """A number that a table can hold: None for what is not finite."""
    return value if math.isfinite(value) else None
