"""The ledger of a model's parameters and buffers, each storage once with all of its names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from inspector.tracing import _torch
from inspector.tracing.capture.modules import all_paths
from inspector.tracing.describe import DTYPES
from inspector.tracing.record import StateEntry
from inspector.tracing.storage import same_values_id

Named = tuple[str, str, torch.Tensor, bool]
"""Name, kind, tensor, and whether it is in state_dict."""


def state_entries(model: nn.Module) -> tuple[StateEntry, ...]:
    """Every parameter and buffer of `model`, in the order of registration.

    Two names are tied when they see the same storage at the same offset with the same number of
    elements; the first name leads. Packed weights of quantized modules have kind "packed".
    """
    return entries_of(_named(model))


def entries_of(named: Iterable[Named]) -> tuple[StateEntry, ...]:
    """One entry for each storage among tensors with their name, kind, and whether they are persistent."""
    groups: dict[object, list[Named]] = {}
    for entry in named:
        groups.setdefault(same_values_id(entry[2]), []).append(entry)
    return tuple(_entry(group) for group in groups.values())


def _named(model: nn.Module) -> Iterator[Named]:
    for path, module in all_paths(model):
        prefix = f"{path}." if path else ""
        for name, parameter in _torch.parameters_of(module).items():
            if parameter is not None:
                yield prefix + name, "parameter", parameter, True
        for name, buffer in _torch.buffers_of(module).items():
            if buffer is not None:
                yield prefix + name, "buffer", buffer, name not in _torch.non_persistent_of(module)
        for name, tensor in packed_weights(module):
            yield prefix + name, "packed", tensor, True


def packed_weights(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Weight and bias that a quantized module holds outside its parameters."""
    if not type(module).__module__.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")):
        return
    pair = _torch.packed_pair_of(module)
    if pair is None or isinstance(_torch.packed_of(module), nn.Module):
        return  # a Linear's weight is in the LinearPackedParams below it
    for name, tensor in zip(("weight", "bias"), pair()):
        if tensor is not None:
            yield name, tensor


def _entry(group: list[Named]) -> StateEntry:
    name, kind, tensor, _ = group[0]
    lazy = is_lazy(tensor)
    numel = 0 if lazy else tensor.numel()
    return StateEntry(
        name=name,
        kind=kind,
        shape=() if lazy else tuple(tensor.shape),
        dtype=DTYPES[tensor.dtype],
        numel=numel,
        nbytes=numel * tensor.dtype.itemsize,
        trainable=kind == "parameter" and any(entry[2].requires_grad for entry in group),
        persistent=any(entry[3] for entry in group),
        aliases=tuple(entry[0] for entry in group[1:]),
        device=tensor.device.type,
    )
