"""Is the initialisation a function of the seed, and does it write each tensor once?

A model that is not the same for the same seed cannot be reproduced; one that is the same for every
seed makes the runs of a study copies of each other; a tensor that is filled twice keeps the second
scheme and loses the first without a word.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import log2
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inspector.initialization.writes import EMPTY, FOREIGN, RANDOM, Write, Writes, storage_of, written
from inspector.reporting.report import Finding

__all__ = ["Writes", "reproducible", "written", "written_twice"]

ENTROPY = 30.0
"""Bits that a random tensor must hold before two equal draws prove anything: 2^-30 by chance."""
FLOAT_BITS = 20.0
"""Random bits credited to each element of a float tensor whose values hardly repeat."""
DISTINCT = 8
"""A float parameter from outside torch with more distinct values than this may be random."""
NAMED = 5
"""How many tensors the evidence of a summary names."""

Origins = Mapping[str, frozenset[str]]


def reproducible(build: Callable[[int], nn.Module], seed: int) -> list[Finding]:
    """Build with `seed` twice and with `seed + 1` once, and compare the bytes of all tensors.

    `build` seeds the generators itself, as models.build does (torch, Python, NumPy). Two checks:
    `reproducible`: equal seeds give equal bytes, NaN and non-persistent buffers included;
    `seed_ignored`: another seed changes every tensor that a random operator of torch filled. Of what
    comes from outside torch nothing is known: a trainable float parameter that stays is a warn.
    """
    first = written(lambda: build(seed))
    state = dict(_state(first.result))
    if any(tensor.device.type == "meta" for tensor in state.values()):
        message = "tensors on meta have no values"
        return [Finding(check, "skip", "", message) for check in ("reproducible", "seed_ignored")]
    origins = {name: first.origins(tensor) for name, tensor in state.items()}
    digests = {name: _digest(tensor) for name, tensor in state.items()}
    parameters = dict(first.result.named_parameters(remove_duplicate=False))
    never = [name for name in parameters if EMPTY in origins.get(name, ())]
    del first, state, parameters  # one model at a time
    again = {name: _digest(tensor) for name, tensor in _state(written(lambda: build(seed)).result)}
    other = dict(_state(written(lambda: build(seed + 1)).result))
    fixed = {name: tensor for name, tensor in other.items() if digests.get(name) == _digest(tensor)}
    return _compared(digests, again, origins, never) + _unmoved(fixed, origins, seed)


def _state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all their names, those without values yet left out."""
    lazy = nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            if not isinstance(tensor, lazy):
                yield name, tensor


def _elements(tensor: Tensor) -> Any:
    """The elements as NumPy records of raw bytes: NaN equals itself, bfloat16 needs no type."""
    plain = tensor.detach().cpu()
    plain = plain.to_dense() if plain.layout is not torch.strided else plain
    plain = (plain.int_repr() if plain.is_quantized else plain).resolve_conj().resolve_neg().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy()
    return raw.view(np.dtype((np.void, plain.element_size())))


def _digest(tensor: Tensor) -> bytes:
    """A hash of dtype, shape and bytes."""
    content = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    content.update(memoryview(_elements(tensor).view(np.uint8)))
    return content.digest()


def _compared(
    first: Mapping[str, bytes], again: Mapping[str, bytes], origins: Origins, never: list[str]
) -> list[Finding]:
    """The findings of two builds with one seed."""
    if first.keys() != again.keys():
        lost = sorted(first.keys() ^ again.keys())
        message = "exists in only one of two builds with one seed: the structure itself is random"
        return [Finding("reproducible", "fail", lost[0], message, {"tensors": lost})]
    moved = [name for name in first if first[name] != again[name]]
    found = [
        Finding(
            "reproducible",
            "fail",
            names[0],
            f"{_count(names, 'differs', 'differ')} for one seed: {cause}",
            _evidence(names),
        )
        for cause, names in _grouped(moved, lambda name: _cause(origins[name])).items()
    ]
    silent = [name for name in never if name not in moved]
    if silent:
        message = f"{_count(silent, 'is', 'are')} allocated, and nothing was seen to fill it: torch.empty?"
        found.append(Finding("reproducible", "warn", silent[0], message, _evidence(silent)))
    if not moved:
        message = f"two builds with one seed give the same bytes in all {len(first)} tensors"
        found.insert(0, Finding("reproducible", "pass", "", message))
    return found


def _cause(origins: frozenset[str]) -> str:
    if EMPTY in origins:
        return "never written, torch.empty shows what the memory held before"
    if RANDOM in origins and FOREIGN not in origins:
        return "drawn by a torch generator that the seed does not reach (torch.seed(), Generator().seed())"
    return "values from outside torch; np.random.default_rng(), os.urandom and time need a seed of their own"


def _unmoved(fixed: Mapping[str, Tensor], origins: Origins, seed: int) -> list[Finding]:
    """The findings on tensors that are equal under two seeds."""
    random = [name for name in fixed if RANDOM in origins[name]]
    stuck = [name for name in random if _bits(fixed[name]) >= ENTROPY]
    outside = [name for name in fixed if name not in random and _may_be_random(fixed[name], origins[name])]
    found = []
    if stuck:
        message = (
            f"{_count(stuck, 'is', 'are')} random and the same for seeds {seed} and {seed + 1}: "
            "a generator with a fixed seed, or torch.manual_seed inside the model"
        )
        found.append(Finding("seed_ignored", "fail", stuck[0], message, _evidence(stuck)))
    else:
        count = sum(RANDOM in origin for origin in origins.values())
        message = f"another seed changes the random tensors ({count} of {len(origins)} are random)"
        found.append(Finding("seed_ignored", "pass", "", message))
    if outside:
        message = (
            f"{_count(outside, 'is', 'are')} the same for seeds {seed} and {seed + 1}, with values from "
            "outside torch: loaded or computed, or drawn by NumPy or Python with a seed of its own"
        )
        found.append(Finding("seed_ignored", "warn", outside[0], message, _evidence(outside)))
    return found


def _bits(tensor: Tensor) -> float:
    """How much chance the values can hold: 0 when all are equal, more with length and variety."""
    count, distinct = tensor.numel(), _distinct(tensor)
    if distinct < 2:
        return 0.0
    return count * (FLOAT_BITS if tensor.is_floating_point() and distinct > count / 2 else log2(distinct))


def _distinct(tensor: Tensor) -> int:
    return len(np.unique(_elements(tensor))) if tensor.numel() else 0


def _may_be_random(tensor: Tensor, origins: frozenset[str]) -> bool:
    """Frozen tables and buffers are constants by intent."""
    asks = FOREIGN in origins and isinstance(tensor, nn.Parameter) and tensor.requires_grad
    return asks and tensor.is_floating_point() and _distinct(tensor) > DISTINCT


def written_twice(model: nn.Module, writes: Writes, explicit_only: bool = True) -> list[Finding]:
    """Check `written_twice`: no random initialisation is lost to another one.

    A fail is a random fill that is wholly overwritten by a random fill of the same scope (one
    constructor, or no constructor at all): a scheme applied twice, also through two names of one
    tensor, or a general scheme after a special one. What overwrites with a reason is a warn:
    an explicit scheme over the defaults of torch.nn (wasted time, not an error), and `overridden`:
    an outer constructor over an inner one (torchvision's Swin), a line that fills few tensors over
    one that fills more (timm's BEiT sets its head again), a constant over random values (heads that
    start at zero). Constants that something overwrites are no loss. Without `explicit_only` every
    random fill that is lost to a random fill fails, also torch.nn's own.
    """
    names = _names(model)
    filled = {key: writes.records[key].writes for key in names if key in writes.records}
    breadth = _breadth(filled)
    losses = [loss for key, history in filled.items() for loss in _losses(key, history)]
    kinds = _grouped(losses, lambda loss: _kind(loss, breadth, explicit_only))
    pairs = _grouped(kinds.get("double", []), lambda loss: f"{_said(loss.first)} | {_said(loss.second)}")
    found = [_doubled(group, names) for group in pairs.values()]
    if not found:
        count = sum(bool(history) for history in filled.values())
        message = f"no random initialisation was overwritten by another in {count} filled tensors"
        found = [Finding("written_twice", "pass", "", message)]
    return found + [_summary(kind, kinds[kind], names) for kind in _WARNINGS if kinds.get(kind)]


@dataclass(frozen=True)
class _Loss:
    """`first` filled a part of the storage `key`; the last of it is gone with `second`."""

    key: int
    first: Write
    second: Write


def _losses(key: int, history: list[Write]) -> Iterator[_Loss]:
    for position, first in enumerate(history):
        left = [(first.start, first.stop)]
        for second in history[position + 1 :]:
            if second.group == first.group:
                continue
            if second.layout is None:
                left = _without(left, second.start, second.stop)
            elif (second.start, second.layout) == (first.start, first.layout):
                left = []
            if not left:
                yield _Loss(key, first, second)
                break


def _without(ranges: list[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """The ranges less start:stop."""
    pieces = [piece for low, high in ranges for piece in ((low, min(high, start)), (max(low, stop), high))]
    return [(low, high) for low, high in pieces if low < high]


_WARNINGS = {
    "default": "filled by torch.nn's defaults first and explicitly afterwards: wasted time, not an error",
    "overridden": "given random values that an outer constructor, a narrower line or a constant overwrote",
}


def _kind(loss: _Loss, breadth: Mapping[str, int], explicit_only: bool) -> str:
    """What a loss means: double, default, overridden, or nothing."""
    first, second = loss.first, loss.second
    both = first.random and second.random
    if both and not explicit_only:
        return "double"
    if not first.explicit:
        return "default" if second.explicit else ""
    if not first.random:
        return ""
    special = breadth[second.where] < breadth[first.where]
    return "double" if both and first.scope == second.scope and not special else "overridden"


def _breadth(filled: Mapping[int, list[Write]]) -> dict[str, int]:
    """How many tensors each line of code filled."""
    keys: dict[str, set[int]] = defaultdict(set)
    for key, history in filled.items():
        for write in history:
            keys[write.where].add(key)
    return {where: len(found) for where, found in keys.items()}


def _names(model: nn.Module) -> dict[int, list[str]]:
    """All names of each storage of the model."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in _state(model):
        key = storage_of(tensor)
        if key is not None:
            names[key].append(name)
    return dict(names)


def _doubled(group: list[_Loss], names: Mapping[int, list[str]]) -> Finding:
    tensors = _tied(group, names)
    first, second = group[0].first, group[0].second
    message = f"{_count(tensors, 'was', 'were')} initialised twice: {_said(first)} is lost to {_said(second)}"
    evidence = {"first": _said(first), "second": _said(second), "tensors": tensors}
    return Finding("written_twice", "fail", tensors[0], message, evidence)


def _summary(kind: str, group: list[_Loss], names: Mapping[int, list[str]]) -> Finding:
    tensors = _tied(group, names)
    example = f"{_said(group[0].first)}, then {_said(group[0].second)}"
    message = f"{_count(tensors, 'was', 'were')} {_WARNINGS[kind]}"
    return Finding("written_twice", "warn", tensors[0], message, {**_evidence(tensors), "example": example})


def _tied(group: list[_Loss], names: Mapping[int, list[str]]) -> list[str]:
    """The tensors of some losses, each with all its names."""
    return [" = ".join(names[key]) for key in dict.fromkeys(loss.key for loss in group)]


def _said(write: Write) -> str:
    return f"{write.initialiser} ({write.where})" if write.where else write.initialiser


def _count(names: list[str], one: str, many: str) -> str:
    """Reads after the first name, which is the finding's subject."""
    return one if len(names) == 1 else f"and {len(names) - 1} more {many}"


def _evidence(names: list[str]) -> dict[str, Any]:
    return {"count": len(names), "tensors": names[:NAMED]}


def _grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)
