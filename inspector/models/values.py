"""Tensors in values of any form: what a model takes and returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

DEEPEST = 4
"""Levels of objects in objects that are searched for tensors."""


def tensors(value: Any, depth: int = DEEPEST) -> Iterator[Tensor]:
    """Every tensor in nested containers, dataclasses and plain objects."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from tensors(entry, depth)
    elif isinstance(value, (list, tuple, set)):
        for entry in value:
            yield from tensors(entry, depth)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from tensors(getattr(value, entry.name, None), depth - 1)
    elif depth > 0 and not isinstance(value, (nn.Module, type)):
        yield from tensors(list(getattr(value, "__dict__", {}).values()), depth - 1)


def floats(output: Any) -> list[Tensor]:
    """The floating-point tensors among `tensors`."""
    return [leaf for leaf in tensors(output) if leaf.is_floating_point()]


def batch_size(args: Any, kwargs: Any) -> int:
    """The first dimension of the first tensor, or the length of a list of images."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            return value.shape[0]
        if isinstance(value, (list, tuple)) and value:
            return len(value)
    return 0
