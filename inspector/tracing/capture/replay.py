"""The values of a tensor on meta, where they follow from sizes and from what stayed on the CPU.

The record holds every operator with its arguments. Those that a tensor comes from run again on the CPU,
unless one draws random numbers or reads what has no values: the state, and inputs on meta.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from inspector.tracing._torch import tree_leaves
from inspector.tracing.capture.kernels import aside
from inspector.tracing.capture.pricing import Call
from inspector.tracing.formulas.traffic import tensors
from inspector.tracing.record import TensorSpec

_LIMIT = 2**31
"""Bytes that may be made again, all results together."""
_COPIED = 2**20
"""Bytes of a storage that is kept from one turn of a loop to the next."""


LENDERS = {
    f"aten.{name}"
    for name in """
        empty_like full_like ones_like zeros_like new_empty new_empty_strided new_full new_ones new_zeros
    """.split()
}
"""Operators that ask their first argument for its form, not for its values."""
_Tensor = Callable[[TensorSpec, Sequence[int]], Tensor]
Kept = Mapping[int, tuple[Tensor, int]]
"""Of storages with values: a copy of their bytes, and how many calls were recorded when it was taken."""


_NEVER = (torch.empty(0), 0)


class _Unknown(Exception):
    """The values do not follow from what is recorded."""


class _Stale(Exception):
    """A copy is of later than what is asked for."""


def replayed(
    calls: Sequence[Call],
    storages: Sequence[Sequence[Any]],
    spec: TensorSpec,
    strides: Sequence[int],
    until: int,
    kept: Kept = MappingProxyType({}),
    renewed: MutableMapping[int, tuple[Tensor, int]] | None = None,
) -> Tensor | None:
    """The tensor `spec` as it is before call `until`, on the CPU; None where its values are not known.

    storages: of each its entry in the record, with the index of the call that made it at place 3, and
    of the last that it lived through at place 4. renewed: gets copies of what was made on the way, so that a
    loop that asks in each turn whether to go on does not begin anew; for callers whose `until` only grows.
    """
    if renewed:
        try:
            return _replayed(calls, storages, spec, strides, until, ChainMap(renewed, dict(kept)), renewed)
        except _Stale:
            pass
    return _replayed(calls, storages, spec, strides, until, kept, renewed)


def _replayed(
    calls: Sequence[Call],
    storages: Sequence[Sequence[Any]],
    spec: TensorSpec,
    strides: Sequence[int],
    until: int,
    kept: Kept,
    renewed: MutableMapping[int, tuple[Tensor, int]] | None,
) -> Tensor | None:
    try:
        chosen, read, asked = _sources(calls, storages, spec.storage, until, kept)
        memory = _Memory(kept, read)
        with aside(), torch.no_grad():
            for call in chosen:
                _run(call, memory)
            result = memory.tensor(spec, strides)
            if renewed is not None:
                for place in [place for place in renewed if storages[place][4] is not None]:
                    del renewed[place]  # it has died
                renewed.update(memory.copies(asked))
            return result
    except (_Unknown, RuntimeError, NotImplementedError, TypeError, ValueError, LookupError, StopIteration):
        return None


def _sources(
    calls: Sequence[Call], storages: Sequence[Sequence[Any]], storage: int, until: int, kept: Kept
) -> tuple[list[Call], set[int], dict[int, int]]:
    """The calls before `until` that the values of a storage come from, in their order, what they read of
    `kept`, and how many calls there were before each storage was last read."""
    needed, made, chosen, nbytes = {storage}, set(), [], 0
    asked: dict[int, int] = {}
    first = _first(needed, storages, kept)
    for index in range(until - 1, -1, -1):
        if index < first:
            break
        call = calls[index]
        results = {spec.storage for spec in tensors(call.result)}
        written = {spec.storage for i in call.operator.written for spec in tensors(call.args[i : i + 1])}
        if call.operator.written_names and call.kwargs:
            written |= {spec.storage for spec in tensors(call.kwargs)}
        touched = results | written
        if not any(place in needed and index >= kept.get(place, _NEVER)[1] for place in touched):
            continue
        _check(call)
        chosen.append(call)
        made |= {place for place in results if storages[place][3] == index}
        if call.operator.name not in LENDERS:
            arguments = {spec.storage for spec in (*tensors(call.args), *tensors(call.kwargs))}
            if any(kept.get(place, _NEVER)[1] > index for place in arguments | touched):
                raise _Stale
            asked |= {place: index + (place in touched) for place in arguments - needed}
            needed |= arguments
        first = _first(needed, storages, kept)
        nbytes += sum(spec.nbytes for spec in tensors(call.result))
    if needed - made - set(kept) or nbytes > _LIMIT:
        raise _Unknown
    return chosen[::-1], needed & set(kept), asked


def _first(needed: set[int], storages: Sequence[Sequence[Any]], kept: Kept) -> int:
    """The first call that made one of the storages, or came after a copy was taken."""
    births: list[int] = [kept[place][1] for place in needed if place in kept]
    births += [
        storages[place][3]
        for place in needed
        if place not in kept and place >= 0 and storages[place][3] is not None
    ]
    if len(births) < len(needed):
        raise _Unknown
    return min(births)


def _check(call: Call) -> None:
    """Whether a call gives the same again."""
    func = call.signature[0]
    tags = getattr(func, "tags", None)
    if tags is None or torch.Tag.nondeterministic_seeded in tags or call.operator.rule is not None:
        raise _Unknown


class _Memory:
    """The storages that were made so far, on the CPU in place of meta."""

    def __init__(self, kept: Kept, read: set[int]) -> None:
        self.made = {place: kept[place][0].clone().untyped_storage() for place in read}

    def tensor(self, spec: TensorSpec, strides: Sequence[int]) -> Tensor:
        empty = torch.empty(0, dtype=getattr(torch, spec.dtype))
        return empty.set_(self.made[spec.storage], spec.offset, spec.shape, strides)

    def copies(self, asked: Mapping[int, int]) -> dict[int, tuple[Tensor, int]]:
        """The bytes of the storages that were read, each as it was when `asked` says."""
        read = {place: self.made[place] for place in asked if place in self.made}
        return {
            place: (torch.empty(0, dtype=torch.uint8).set_(held), asked[place])
            for place, held in read.items()
            if held.nbytes() <= _COPIED
        }

    def like(self, spec: TensorSpec, strides: Sequence[int]) -> Tensor:
        """As `tensor`; where only the form is asked for, there need be no values."""
        if spec.storage in self.made:
            return self.tensor(spec, strides)
        return torch.empty_strided(spec.shape, strides, dtype=getattr(torch, spec.dtype))


def _on_meta(spec: TensorSpec, strides: Sequence[int]) -> Tensor:
    return torch.empty_strided(spec.shape, strides, dtype=getattr(torch, spec.dtype), device="meta")


def _run(call: Call, memory: _Memory) -> None:
    """One call on the CPU; its results must have the layout that they had on meta."""
    specs = tensors(call.result)
    results = _results(call, memory.like if call.operator.name in LENDERS else memory.tensor, "cpu")
    if len(results) != len(specs):
        raise _Unknown
    if any(spec.storage not in memory.made for spec in specs):
        if [value.stride() for value in _results(call, _on_meta, "meta")] != [r.stride() for r in results]:
            raise _Unknown
    for spec, value in zip(specs, results):
        storage = value.untyped_storage()
        if memory.made.setdefault(spec.storage, storage).data_ptr() != storage.data_ptr():
            raise _Unknown


def _results(call: Call, tensor: _Tensor, device: str) -> list[Tensor]:
    """The signature of a call holds what its arguments in the record leave out: strides."""
    key = iter(call.signature)
    func = next(key)
    args = [_argument(value, key, tensor, device) for value in call.args]
    kwargs = {next(key): _argument(value, key, tensor, device) for value in call.kwargs.values()}
    return [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]


def strides_of(call: Call, place: int) -> tuple[int, ...]:
    """The strides of the tensor that is argument `place` of a call."""
    key, strides = iter(call.signature[1:]), []

    def tensor(spec: TensorSpec, layout: Sequence[int]) -> Any:
        strides.append(tuple(layout))

    for value in call.args[: place + 1]:
        _argument(value, key, tensor, "meta")
    return strides[-1]


def _argument(value: Any, key: Iterator[Any], tensor: _Tensor, device: str) -> Any:
    """Follows the order in which the recorder writes a signature."""
    first = next(key)
    if isinstance(value, TensorSpec):
        if first != value.shape or next(key) != value.dtype or value.storage < 0:
            raise _Unknown
        strides, _ = next(key), next(key)
        return tensor(value, strides)
    if isinstance(value, list):
        return [_argument(entry, key, tensor, device) for entry in value]
    next(key)
    return torch.device(device) if isinstance(value, torch.device) else value
