"""How numbers are written for people. Units: count, bytes, share, text."""

from __future__ import annotations

from typing import Any

import pandas as pd

_SI = ("", " k", " M", " G", " T", " P", " E", " Z")
_IEC = (" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB")
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


def written(value: Any, unit: str) -> str:
    """A cell as text; a missing number is never written as 0."""
    if unit in ("text", "") and isinstance(value, str):
        return value
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return MISSING if unit in ("count", "MAC", "FLOP", "bytes", "byte") else ""
    if unit == "share":
        return f"{100 * float(value):.1f}%"
    if unit in ("bytes", "byte"):
        return size(int(value))
    if unit in ("count", "MAC", "FLOP", "element", "op"):
        return si(int(value))
    return str(value)
