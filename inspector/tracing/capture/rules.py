"""Results that meta cannot give although the shapes are known, and those of norms, for which it runs a dozen
operators in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.tracing.capture.pricing import Rule
from inspector.tracing.subclass import PLAIN


def int8_double_quant(x: Tensor, threshold: float = 0.0) -> Any:
    """Codes by rows and by columns with their scales; data-dependent only with a threshold, which searches
    outliers."""
    if threshold:
        return NotImplemented
    codes = [torch.empty_like(x, dtype=torch.int8) for _ in range(2)]
    rows, columns = x.numel() // x.shape[-1], x.shape[-1]
    scales = [x.new_empty(size, dtype=torch.float32) for size in (rows, columns)]
    return (*codes, *scales, None)


def weight_int4pack_mm(x: Tensor, packed: Tensor, *_: Any) -> Any:
    """x (n, k), packed (m / 8, k / 16 inner, 32, inner / 2), result (n, m): torch 2.15 asks meta for the
    device that it stands for, which only a fake tensor has."""
    return x.new_empty(x.shape[0], 8 * packed.shape[0]) if packed.dim() == 4 else NotImplemented


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """With the statistics that are stored, of float32 in the usual order: x again, and a mean and a deviation
    for each channel."""
    if training or mean is None or variance is None or x.dim() < 2:
        return NotImplemented
    return _normed(x, x.shape[1:2], x.shape[1:2], weight, bias, mean, variance)


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Any:
    """Over the last dimension, of float32 in the usual order: x again, and a mean and a deviation for each
    sample."""
    if len(shape) != 1 or not x.dim() or shape[0] != x.shape[-1]:
        return NotImplemented
    return _normed(x, x.shape[-1:], (*x.shape[:-1], 1), weight, bias)


def _normed(x: Tensor, width: Sequence[int], each: Sequence[int], *beside: Tensor | None) -> Any:
    """x again and two statistics of shape `each`, where shapes alone decide: all are of float32, with one
    element after the other, x is not empty, and what is `beside` it has the shape `width`."""
    tensors = [x, *(one for one in beside if one is not None)]
    if not x.numel() or not all(
        type(one) in PLAIN and one.device.type == "meta" and one.dtype is torch.float32 for one in tensors
    ):
        return NotImplemented
    if not all(one.shape == width and one.stride() == (1,) for one in tensors[1:]):
        return NotImplemented
    out, mean, deviation = (torch.empty(size, dtype=x.dtype, device="meta") for size in (x.shape, each, each))
    return (out, mean, deviation) if out.stride() == x.stride() else NotImplemented


ON_META: dict[str, Rule] = {
    "aten.native_batch_norm": batch_norm,
    "aten.native_layer_norm": layer_norm,
    "aten._weight_int4pack_mm": weight_int4pack_mm,
    "bitsandbytes.int8_double_quant": int8_double_quant,
}


def joined(written: Sequence[int], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The arguments with the tensors that stayed on the CPU on meta, beside the others; None where there
    are none, or one at a place in `written` would not get the results."""
    if not any(map(_on_cpu, (*args, *kwargs.values()))):
        return None
    if any(_on_cpu(args[i]) for i in written if i < len(args)):
        return None
    return [_to_meta(value) for value in args], {name: _to_meta(value) for name, value in kwargs.items()}


def _on_cpu(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_on_cpu, value))
    return isinstance(value, Tensor) and value.device.type == "cpu"


def _to_meta(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_to_meta, value))
    return value.to("meta") if _on_cpu(value) else value
