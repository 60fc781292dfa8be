"""Work that torch hands to others: what numpy computes is no operator, and cannot be counted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

NUMPY = "numpy.ndarray"
"""The name that stands for the unknown work in the record."""
NOTE = "work done in numpy is not counted: MACs, FLOPs, activations and bytes are lower bounds"

_WAYS_OUT = ("numpy", "__dlpack__")
"""`Tensor.__array__`, and with it every function of numpy, takes the first."""


@contextmanager
def leaving(left: Callable[[Tensor], object]) -> Iterator[None]:
    """Tell `left` of each tensor that this thread hands to numpy or another library."""
    thread = threading.get_ident()
    before = {name: vars(Tensor).get(name) for name in _WAYS_OUT}
    try:
        for name in _WAYS_OUT:
            setattr(Tensor, name, _told(getattr(Tensor, name), left, thread))
        yield
    finally:
        for name, function in before.items():
            if function is None:
                delattr(Tensor, name)
            else:
                setattr(Tensor, name, function)


def _told(function: Callable[..., Any], left: Callable[[Tensor], object], thread: int) -> Callable[..., Any]:
    inside = False  # a function mode calls the method again

    def hand_over(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal inside
        if inside or threading.get_ident() != thread:
            return function(tensor, *args, **kwargs)
        inside = True
        try:
            result = function(tensor, *args, **kwargs)
        finally:
            inside = False
        left(tensor)
        return result

    return hand_over
