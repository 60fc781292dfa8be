"""Arguments of a call as text, in the form of the input grammar: float32[1,3,224,224]."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch

DTYPES = {dtype: str(dtype)[6:] for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
"""Each dtype without the prefix "torch."."""


def describe(value: Any) -> str:
    """One argument: a tensor (or what stands for one, with `shape` and `dtype`), a number, a nested list."""
    dtype = getattr(value, "dtype", None)
    if getattr(value, "is_nested", False):
        shapes = ",".join("x".join(map(str, part.shape)) for part in value.unbind())
        return f"nested {DTYPES[value.dtype]}[{shapes}]"
    if isinstance(dtype, torch.dtype) and hasattr(value, "shape"):
        return f"{DTYPES[dtype]}[{','.join(map(str, value.shape))}]"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(describe, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}={describe(entry)}' for key, entry in value.items())}}}"
    return repr(value) if isinstance(value, (int, float, str, type(None))) else type(value).__name__


def describe_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """All arguments of a call; those passed by name are written `name=...`."""
    return [_argument("", value) for value in args] + [_argument(*item) for item in kwargs.items()]


def _argument(name: str, value: Any) -> str:
    """A plain value is written as the input grammar reads it: `causal:=false`."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return f"{name}:={json.dumps(value)}"
    return f"{name}={describe(value)}" if name else describe(value)
