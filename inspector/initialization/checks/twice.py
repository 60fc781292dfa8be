"""Is each tensor initialised once? One that is filled twice silently loses the first scheme to the second."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn

from inspector.initialization.builds import state
from inspector.initialization.checks.words import count, grouped, sample
from inspector.initialization.writes import Write, Writes, storage_of
from inspector.reporting.checks import check, failed, passed, warned
from inspector.reporting.report import Finding


@dataclass(frozen=True)
class Filled:
    """A model, and the fills that made it. Without `explicit_only` every random fill that is lost to a random
    fill fails, also torch.nn's own."""

    model: nn.Module
    writes: Writes
    explicit_only: bool = True


@check
def written_twice(filled: Filled) -> Iterator[Finding]:
    """No random initialisation is overwritten by another one.

    A fail is a random fill that is wholly overwritten by a random fill of the same scope (one constructor,
    or no constructor at all): a scheme applied twice, also through two names of one tensor, or a general
    scheme after a special one. What has a reason is a warning: an explicit scheme over the defaults of
    torch.nn (wasted time, not an error); an outer constructor over an inner one (torchvision's Swin); a
    line that fills few tensors over one that fills more (timm's BEiT sets its head again); a constant over
    random values (heads that start at zero). Constants that something overwrites are no loss.
    """
    names = _names(filled.model)
    fills = {key: filled.writes.records[key].writes for key in names if key in filled.writes.records}
    breadth = _breadth(fills)
    losses = [loss for key, history in fills.items() for loss in _losses(key, history)]
    kinds = grouped(losses, lambda loss: _kind(loss, breadth, filled.explicit_only))
    pairs = grouped(kinds.get("double", []), lambda loss: f"{_author(loss.first)} | {_author(loss.second)}")
    for group in pairs.values():
        yield _doubled(group, names)
    if not pairs:
        number = sum(bool(history) for history in fills.values())
        yield passed(f"no random initialisation was overwritten by another in {number} filled tensors")
    for kind in _WARNINGS:
        if kinds.get(kind):
            yield _excused(kind, kinds[kind], names)


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
    return {where: len(storages) for where, storages in keys.items()}


def _names(model: nn.Module) -> dict[int, list[str]]:
    """All names of each storage of the model."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in state(model):
        key = storage_of(tensor)
        if key is not None:
            names[key].append(name)
    return dict(names)


def _doubled(group: list[_Loss], names: Mapping[int, list[str]]) -> Finding:
    tensors = _tied(group, names)
    first, second = _author(group[0].first), _author(group[0].second)
    message = f"{count(tensors, 'was', 'were')} initialised twice: {first} is overwritten by {second}"
    return failed(message, tensors[0], first=first, second=second, tensors=tensors)


def _excused(kind: str, group: list[_Loss], names: Mapping[int, list[str]]) -> Finding:
    tensors = _tied(group, names)
    example = f"{_author(group[0].first)}, then {_author(group[0].second)}"
    message = f"{count(tensors, 'was', 'were')} {_WARNINGS[kind]}"
    return warned(message, tensors[0], **sample(tensors), example=example)


def _tied(group: list[_Loss], names: Mapping[int, list[str]]) -> list[str]:
    """The tensors of some losses, each with all its names."""
    return [" = ".join(names[key]) for key in dict.fromkeys(loss.key for loss in group)]


def _author(write: Write) -> str:
    return f"{write.initialiser} ({write.where})" if write.where else write.initialiser
