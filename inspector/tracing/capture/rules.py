"""Results that meta cannot give although the shapes are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from inspector.tracing.capture.pricing import Rule


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


ON_META: dict[str, Rule] = {
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
