"""Tensors in values of any form: what a model takes and returns."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn

DEEPEST = 4
"""Levels of objects in objects that are searched for tensors."""


def tensors(value: Any, depth: int = DEEPEST) -> Iterator[Tensor]:
    """Every tensor in nested containers, dataclasses and objects of any class (their attributes).

    Raises TypeError for an iterator: to look into it is to use it up.
    """
    return _tensors(value, depth, set())


def _tensors(value: Any, depth: int, open: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, Iterator):
        raise TypeError(f"a {type(value).__name__} gives its values once: return a list or a tuple")
    if isinstance(value, Mapping):
        parts: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        parts = value
    elif depth > 0 and not isinstance(value, (nn.Module, type, ModuleType, *_PLAIN)):
        parts, depth = _attributes(value), depth - 1
    else:
        return
    if id(value) in open:  # it contains itself
        return
    open.add(id(value))
    for part in parts:
        yield from _tensors(part, depth, open)
    open.discard(id(value))


_PLAIN = (str, bytes, int, float, complex, type(None))


def _attributes(value: Any) -> list[Any]:
    """What an object holds: its __dict__, and its slots."""
    slots = (name for kind in type(value).__mro__ for name in _listed(getattr(kind, "__slots__", ())))
    held = [getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).values(), *held]


def _listed(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def floats(output: Any) -> list[Tensor]:
    """The floating-point tensors among `tensors`."""
    return [leaf for leaf in tensors(output) if leaf.is_floating_point()]


def batch_size(args: Any, kwargs: Any) -> int:
    """The first dimension of the first tensor, or the length of a list of images."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.dim():
            return value.shape[0]
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            return len(value)
    return 0
