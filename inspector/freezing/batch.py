"""Samples of a batch, and how far two outputs are apart."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from inspector.tracing._torch import tree_leaves, tree_map


def copied(value: Any) -> Any:
    """The same arguments in tensors of their own: a model may change its input in place."""

    def copy(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.detach().clone().requires_grad_(leaf.requires_grad)

    return tree_map(copy, value)


def empty(args: Any, kwargs: Any) -> bool:
    """Whether some input holds no element."""
    return any(isinstance(leaf, Tensor) and not leaf.numel() for leaf in tree_leaves((args, kwargs)))


def one_sample(value: Any, batch: int, dim: int = 0, index: int = 0) -> Any:
    """The sample at `index` of whatever holds `batch` of them, along `dim` of a tensor; a tensor that
    has the batch elsewhere only, such as a mask, is cut along its first dimension."""
    if isinstance(value, Tensor):
        along = next((d for d in (dim, 0) if value.dim() > d and value.shape[d] == batch), None)
        return value if along is None else value.narrow(along, index, 1)
    if isinstance(value, dict):
        return {key: one_sample(entry, batch, dim, index) for key, entry in value.items()}
    if isinstance(value, list):
        return value[index : index + 1] if len(value) == batch else value
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(one_sample(entry, batch, dim, index) for entry in value)
    return value


def narrowed(whole: Tensor, alone: Tensor, index: int = 0) -> Tensor | None:
    """The batch's output for the sample at `index`: cut along the one dimension that the batch lengthened."""
    if whole.dim() != alone.dim():
        return None
    longer = [d for d in range(whole.dim()) if whole.shape[d] != alone.shape[d]]
    if not longer:
        return whole
    if len(longer) > 1 or whole.shape[longer[0]] < alone.shape[longer[0]]:
        return None
    size = alone.shape[longer[0]]
    start = index * size if (index + 1) * size <= whole.shape[longer[0]] else 0
    return whole.narrow(longer[0], start, size)


def distance(left: list[Tensor], right: list[Tensor]) -> float | None:
    """Largest absolute difference relative to the largest value; None when shapes differ."""
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right)):
        return None
    return max((_gap(a, b) for a, b in zip(left, right) if a.numel()), default=0.0)


def _gap(a: Tensor, b: Tensor) -> float:
    if not bool((a.isnan() == b.isnan()).all()):
        return float("inf")
    scale = float(a.double().abs().nan_to_num(0.0).max()) or 1.0
    return float((a.double() - b.double()).abs().nan_to_num(0.0).max()) / scale
