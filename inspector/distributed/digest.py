"""A cheap fingerprint of tensors: the sum of their bit patterns as integers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inspector.distributed.group import gathered

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def sums(tensors: Iterable[Tensor]) -> np.ndarray[Any, Any]:
    """One int64 for each tensor. It differs when a single bit does; swapped elements go unnoticed."""
    totals = [_bits(tensor.detach()).sum(dtype=torch.int64) for tensor in tensors]
    if not totals:
        return np.zeros(0, dtype=np.int64)
    alike = len({value.device for value in totals}) == 1  # then one transfer is enough
    return torch.stack(totals if alike else [value.cpu() for value in totals]).cpu().numpy()


def _bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor as the widest integers that fit: eight bytes are summed as fast as one."""
    flat = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous().reshape(-1)
    size = flat.element_size()
    if flat.numel() * size % 8 == 0 and flat.storage_offset() * size % 8 == 0 and flat.numel():
        return flat.view(torch.int64)
    return flat.view(torch.uint8) if flat.dtype is torch.bool else flat.view(_INTEGERS[size])


def digests(model: nn.Module) -> np.ndarray[Any, Any]:
    """The sum of every parameter, in the order of named_parameters(). Collective where some are sharded:
    theirs are of all shards together, and differ from those of the whole tensor."""
    parameters = list(model.parameters())
    totals = sums(map(local, parameters))
    split = np.array([is_sharded(parameter) for parameter in parameters], dtype=bool)
    return np.where(split, np.sum(gathered(totals), axis=0), totals) if split.any() else totals


def is_sharded(tensor: Tensor) -> bool:
    """Whether the ranks hold parts of it (DTensor, known by its methods: its import costs seconds)."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    shard: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return shard


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor that the ranks may hold in shards. Collective."""
    full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return full
