"""Axes: where a value lies on one, its ticks, and the frame around a plot.

Everything is placed in percent of the plot: it fits any width without a script, and texts keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from inspector.reporting.registry import Unit, is_missing, quantity

_SI = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_IEC = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))
_SCALES: dict[str, tuple[tuple[float, str], ...]] = {Unit.BYTE: _IEC, Unit.SECOND: _TIMES}
_NAMES = {
    Unit.SECOND: "s", Unit.BYTE: "B", Unit.PER_SECOND: "1/s", Unit.FLOP: "FLOPs", Unit.MAC: "MACs",
    Unit.FLOP_PER_BYTE: "FLOPs/byte", Unit.TFLOP_PER_SECOND: "TFLOP/s",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, values of `title`; `ticks` are values and their texts."""

    title: str
    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Where the value lies, in percent of the axis."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(value)
        return 100 * (at - low) / ((high - low) or 1)


def axis(name: str, values: Iterable[float | None], log: bool = False, from_zero: bool = False) -> Axis:
    """The axis of a column, by its name and values; bytes and seconds in the largest unit that shows them."""
    numbers = [float(v) for v in values if v is not None and not is_missing(v) and (v > 0 or not log)]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    unit = quantity(name).unit
    if log:
        return _logarithmic(named(name), low or 1.0, high or 1.0)
    if from_zero:
        low = min(low, 0.0)
    scale, word = 1.0, ""
    if unit in _SCALES:
        scale, word = next((pair for pair in _SCALES[unit] if high >= pair[0]), _SCALES[unit][-1])
    step = _step((high - low) / scale or abs(high) / scale or 1)
    first, last = math.floor(low / scale / step), math.ceil(high / scale / step)
    if first == last:
        first, last = first - 1, last + 1
    ticks = tuple((n * step * scale, _text(n * step)) for n in range(first, last + 1))
    title = f"{name.replace('_', ' ')} ({word})" if word else named(name)
    return Axis(title, first * step * scale, last * step * scale, False, ticks)


def named(name: str) -> str:
    """A column's name and unit."""
    entry = quantity(name)
    label, unit = entry.label or name.replace("_", " "), _NAMES.get(Unit(entry.unit), "")
    told = unit.lower() in label.lower() or (unit == "1/s" and ("per second" in label or "/s" in label))
    return f"{label} ({unit})" if unit and not told else label


def _step(span: float) -> float:
    """1, 2 or 5 times a power of ten: about five steps for the span."""
    size = 10.0 ** math.floor(math.log10(span / 5))
    return next(size * factor for factor in (1, 2, 5, 10) if span / (size * factor) <= 6)


def _logarithmic(title: str, low: float, high: float) -> Axis:
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    if first == last:
        last += 1
    every = max(1, math.ceil((last - first) / 6))
    ticks = tuple((10.0**n, _text(10.0**n)) for n in range(first, last + 1) if (n - first) % every == 0)
    return Axis(title, 10.0**first, 10.0**last, True, ticks)


def _text(value: float) -> str:
    if value == 0:
        return "0"
    for size, prefix in _SI:
        if abs(value) >= size:
            return f"{value / size:g}{prefix}"
    return f"{value:.6g}" if abs(value) >= 1e-4 else f"{value:.0e}"


def framed(x: Axis, y: Axis, inside: str, label: str, tall: bool = False) -> str:
    """A plot: grid, ticks and titles around what is `inside`, which is SVG placed in percent. `label` says to
    who cannot see it what it shows."""
    lines = "".join(
        f'<line x1="0" x2="100%" y1="{_down(y, v)}" y2="{_down(y, v)}"/>' for v, _ in y.ticks
    ) + "".join(f'<line y1="0" y2="100%" x1="{_along(x, v)}" x2="{_along(x, v)}"/>' for v, _ in x.ticks)
    texts = "".join(
        f'<text x="0" dx="-8" y="{_down(y, v)}" dy=".35em" text-anchor="end">{escape(t)}</text>'
        for v, t in y.ticks
    ) + "".join(
        f'<text x="{_along(x, v)}" y="100%" dy="1.5em" text-anchor="middle">{escape(t)}</text>'
        for v, t in x.ticks
    )
    return (
        f'<div class="plot{" tall" if tall else ""}"><p class="axis y">{escape(y.title)}</p>'
        f'<svg role="img" aria-label="{escape(label)}"><g class="grid">{lines}</g>'
        f'<g class="ticks">{texts}</g>{inside}</svg><p class="axis x">{escape(x.title)}</p></div>'
    )


def _along(x: Axis, value: float) -> str:
    return f"{x.place(value):.2f}%"


def _down(y: Axis, value: float) -> str:
    return f"{100 - y.place(value):.2f}%"


def path(x: Axis, y: Axis, points: Iterable[tuple[float, float]]) -> str:
    """The `d` of a path through points, in a box of 1000 by 1000 that is stretched over the plot."""
    return "M" + "L".join(f"{10 * x.place(a):.2f} {1000 - 10 * y.place(b):.2f}" for a, b in points)


def stretched(content: str) -> str:
    """Paths of `path`, over the whole plot."""
    return f'<svg class="box" viewBox="0 0 1000 1000" preserveAspectRatio="none">{content}</svg>'
