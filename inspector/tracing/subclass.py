"""Tensors that are kept as others: what a tensor subclass shows, and what it holds in memory.

A quantised or sharded tensor is a wrapper. Its shape and dtype are those of the tensor that it stands for;
the memory is in the inner tensors that `__tensor_flatten__` names, and those may be wrappers again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inspector.tracing import _torch

PLAIN = frozenset({Tensor, nn.Parameter})
"""The classes of nearly all tensors: these hold their own memory, and need no look inside."""


def wraps(tensor: Tensor) -> bool:
    """Whether a tensor's memory is in inner tensors. Nested tensors are not meant: their shape is ragged."""
    kind = type(tensor)
    return kind not in PLAIN and hasattr(kind, "__tensor_flatten__") and not tensor.is_nested


def parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The innermost tensors that hold a tensor's memory: itself, those inside a wrapper, indices and values
    of a sparse one."""
    if wraps(tensor):
        return tuple(part for value in _inner(tensor).values() if _is(value) for part in parts(value))
    if tensor.layout is torch.strided:
        return (tensor,)
    return _sparse(tensor.detach())


def rebuilt(tensor: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """A wrapper of the same class around `change` of each inner tensor."""
    inner = _inner(tensor)
    kept = {name: change(value) if _is(value) else value for name, value in inner.items()}
    context = tensor.__tensor_flatten__()[1]  # type: ignore[attr-defined]
    unflatten: Any = type(tensor).__tensor_unflatten__  # type: ignore[attr-defined]
    made: Tensor = unflatten(kept, context, tensor.size(), tensor.stride())
    return made


def _inner(tensor: Any) -> dict[str, Any]:
    """What a wrapper names as its content: tensors, for some also a device mesh or a size."""
    return {name: getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]}


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


def _sparse(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return _torch.sparse_indices_of(tensor)(), _torch.sparse_values_of(tensor)()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)  # opaque, as oneDNN's: it holds its own memory


def largest(tensors: tuple[Tensor, ...]) -> Tensor:
    """The one with the most bytes, the first of equals."""
    return max(tensors, key=lambda part: part.numel() * part.dtype.itemsize)
