"""A cheap fingerprint of tensors: the sum of their bit patterns as integers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def sums(tensors: Iterable[Tensor]) -> np.ndarray[Any, Any]:
    """One int64 for each tensor. It differs when a single bit does; exchanged elements it does not see."""
    found = []
    for tensor in tensors:
        flat = tensor.detach().contiguous()
        flat = torch.view_as_real(flat) if flat.is_complex() else flat
        bits = (
            flat.view(torch.uint8) if flat.dtype is torch.bool else flat.view(_INTEGERS[flat.element_size()])
        )
        found.append(bits.sum(dtype=torch.int64))
    if not found:
        return np.zeros(0, dtype=np.int64)
    return (
        torch.stack([value.cpu() for value in found]).numpy()
        if len({v.device for v in found}) > 1
        else torch.stack(found).cpu().numpy()
    )


def digests(model: nn.Module) -> np.ndarray[Any, Any]:
    """Of every parameter, in the order of named_parameters()."""
    return sums(model.parameters())


def names(model: nn.Module) -> list[str]:
    """The parameters that `digests` lists."""
    return [name for name, _ in model.named_parameters()]
