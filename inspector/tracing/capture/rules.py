"""Results that meta cannot give although the shapes are known: operators that torch calls data-dependent for
arguments that were not passed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inspector.tracing.capture.pricing import Rule


def int8_double_quant(x: Tensor, threshold: float = 0.0) -> Any:
    """bitsandbytes: codes by rows and by columns with their scales; without a threshold no outliers are
    searched."""
    if threshold:
        return NotImplemented
    codes = [torch.empty_like(x, dtype=torch.int8) for _ in range(2)]
    rows, columns = x.numel() // x.shape[-1], x.shape[-1]
    scales = [x.new_empty(size, dtype=torch.float32) for size in (rows, columns)]
    return (*codes, *scales, None)


ON_META: dict[str, Rule] = {"bitsandbytes.int8_double_quant": int8_double_quant}
