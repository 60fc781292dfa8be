"""How numbers are written for people, by the forms of the registry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from inspector.reporting.registry import Form, is_missing, is_number

_SI = ("", " k", " M", " G", " T", " P", " E", " Z")
_IEC = (" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB")
_TIMES = ((1.0, " s"), (1e-3, " ms"), (1e-6, " us"), (1e-9, " ns"))
MISSING = "unknown"


def si(value: float) -> str:
    """Four significant digits and a prefix: 4089184256 is 4.089 G. Below 1000 the number itself."""
    return _scaled(value, 1000, _SI)


def size(value: float) -> str:
    """Bytes with a binary prefix: 102228128 is 97.49 MiB."""
    return _scaled(value, 1024, _IEC)


def _scaled(value: float, base: int, prefixes: tuple[str, ...]) -> str:
    for step, prefix in enumerate(prefixes):
        amount = float(f"{value / base**step:.4g}")
        if abs(amount) < base:
            break
    if step == 0:
        return f"{value}{prefix}"
    decimals = max(4 - len(str(int(abs(amount)))), 0)
    return f"{amount:.{decimals}f}{prefix}"


def written(value: Any, form: Form) -> str:
    """A cell as text: a text as it is; a missing number is never written as 0."""
    if is_missing(value):
        return MISSING if form in (Form.SI, Form.SIZE) else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not is_number(value) or form is Form.PLAIN:
        return str(value)
    return _WRITERS[form](value) if math.isfinite(value) else f"{value:g}"


def digits(value: float, count: int = 4) -> str:
    """`count` significant digits, no exponent, thousands separated: 12345.6 is 12,346."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(float(f"{value:.{count}g}"))))  # after rounding: 0.99996 is 1.000
    decimals = max(count - 1 - size, 0)
    return f"{value:,.{decimals}f}"


def number(value: float) -> str:
    """Four significant digits; integers in full, very large or small numbers in scientific notation."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return digits(value) if 1e-4 <= abs(value) < 1e15 else f"{value:.3e}"


def counted(count: int, noun: str) -> str:
    """1 step, 2 steps."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def duration(seconds: float) -> str:
    """Four significant digits in s, ms, us or ns: 0.0123 is 12.30 ms."""
    for scale, unit in _TIMES:
        if abs(seconds) >= scale * 0.99995:
            return digits(seconds / scale) + unit
    return "0 s" if seconds == 0 else digits(seconds / _TIMES[-1][0]) + _TIMES[-1][1]


_WRITERS: dict[Form, Callable[[Any], str]] = {
    Form.SI: lambda value: si(int(value)),
    Form.SIZE: lambda value: size(int(value)),
    Form.SIZE_IF_MEASURED: lambda value: size(int(value)),
    Form.SIGNED: lambda value: f"{'' if value == 0 else '-' if value < 0 else '+'}{si(abs(int(value)))}",
    Form.DURATION: duration,
    Form.NUMBER: number,
    Form.DIGITS: digits,
    Form.THREE_DIGITS: lambda value: digits(value, 3),
    Form.WHOLE: lambda value: f"{value:.0f}",
    Form.PERCENT: lambda value: f"{100 * value:.1f}%",
    Form.SHORT_PERCENT: lambda value: f"{100 * value:.{0 if value >= 1 else 2}{'f' if value >= 1 else 'g'}}%",
    Form.TIMES: lambda value: f"{value:.2f}x",
    Form.SCIENTIFIC: lambda value: "0" if value == 0 else f"{value:.1e}",
}
