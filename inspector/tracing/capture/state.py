"""The ledger of a model's parameters and buffers, each storage once with all of its names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import prod
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from inspector.tracing import _torch
from inspector.tracing.beside import beside, presented, quantised
from inspector.tracing.capture.modules import all_paths
from inspector.tracing.describe import DTYPES, describe
from inspector.tracing.record import StateEntry
from inspector.tracing.storage import same_values_id
from inspector.tracing.subclass import PLAIN, largest, parts


class Named(NamedTuple):
    """A tensor with its name and kind, whether it is in state_dict, and the module that holds it."""

    name: str
    kind: str
    tensor: torch.Tensor
    persistent: bool
    module: nn.Module | None = None


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
        groups.setdefault(same_values_id(entry.tensor), []).append(entry)
    shared: set[object] = set()
    return tuple(_entry(group, shared) for group in groups.values())


def _named(model: nn.Module) -> Iterator[Named]:
    for path, module in all_paths(model):
        prefix = f"{path}." if path else ""
        for name, parameter in _torch.parameters_of(module).items():
            if parameter is not None:
                yield Named(prefix + name, "parameter", parameter, True, module)
        for name, buffer in _torch.buffers_of(module).items():
            if buffer is not None:
                persistent = name not in _torch.non_persistent_of(module)
                yield Named(prefix + name, "buffer", buffer, persistent, module)
        for name, tensor in packed_weights(module):
            yield Named(prefix + name, "packed", tensor, True, module)


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


def _entry(group: list[Named], shared: set[object]) -> StateEntry:
    """`shared` are the scales and tables that an earlier entry has counted."""
    name, kind, tensor, _, _ = group[0]
    plain = type(tensor) in PLAIN
    lazy = not plain and is_lazy(tensor)
    numel = 0 if lazy else tensor.numel()
    entry = StateEntry(
        name=name,
        kind=kind,
        shape=() if lazy else tuple(tensor.shape),
        dtype=DTYPES[tensor.dtype],
        numel=numel,
        nbytes=numel * tensor.dtype.itemsize,
        trainable=kind == "parameter" and any(named.tensor.requires_grad for named in group),
        persistent=any(named.persistent for named in group),
        aliases=tuple(named.name for named in group[1:]),
        device=tensor.device.type,
    )
    whole = lazy or (plain and tensor.layout is torch.strided)
    return entry if whole and not quantised(group[0].module, tensor) else _kept(entry, group[0], shared)


def _kept(entry: StateEntry, named: Named, shared: set[object]) -> StateEntry:
    """The entry of a tensor that may be kept as others: what it stands for, and what that takes."""
    module, tensor = named.module, named.tensor
    inner = (*parts(tensor), *beside(module, tensor))
    shape, dtype, code = presented(module, tensor) or (entry.shape, tensor.dtype, "")
    main = largest(inner)
    if len(inner) == 1 and (main.shape, main.dtype) == (shape, dtype):
        return entry
    own = {same_values_id(part): part.numel() * part.dtype.itemsize for part in inner}
    nbytes = sum(size for key, size in own.items() if key not in shared)
    shared.update(own)
    return replace(
        entry,
        shape=tuple(shape),
        dtype=DTYPES[main.dtype if tensor.layout is torch.strided else dtype],
        numel=prod(shape),
        nbytes=nbytes,
        stored=f"{code or DTYPES[dtype]} as {' + '.join(map(describe, inner))}",
    )
