"""Which changes of modules are one: a layer that was widened, and the layers that only read what it writes.

A report does not hold the edges of a model, so little is taken as certain. A layer follows where its own
outputs, kernel and calls are as they were, and its inputs went from A to B as the outputs of a layer before
it did; norms, and other parameters of a channel each, follow in the same way. A layer whose outputs changed
is a cause, also where it had to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inspector.regress.content import Layer
from inspector.regress.layers import CHANNELS, Moved, Widths, described, differences, outputs, widths
from inspector.reporting.numbers import counted

_Step = tuple[int, int]
"""A number of channels or features in BASE and in HEAD."""


@dataclass
class Group:
    """Modules that changed alike (`causes`), and those that changed only because of them. `blocks` are the
    modules around causes that were added or removed as a whole."""

    causes: list[Moved]
    followers: list[Moved] = field(default_factory=list)
    blocks: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        """HEAD's less BASE's, of all its layers."""
        return sum(change.macs for change in (*self.causes, *self.followers))

    @property
    def params(self) -> int:
        """HEAD's less BASE's, of all its layers."""
        return sum(change.params for change in (*self.causes, *self.followers))

    @property
    def name(self) -> str:
        """The first of its causes, and how many there are beside it."""
        names = self.blocks or [change.path or "(the model itself)" for change in self.causes]
        return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]

    @property
    def what(self) -> str:
        """What happened to them, and what follows: `64 to 128 channels, 12 layers follow`."""
        verb = "follows" if len(self.followers) == 1 else "follow"
        after = f", {counted(len(self.followers), 'layer')} {verb}" if self.followers else ""
        return self._own() + after

    def _own(self) -> str:
        if self.blocks:
            return f"{_fate(self.causes[0])}: {len(self.causes)} layers"
        if len(self.causes) == 1:
            return described(self.causes[0])
        words = [differences(change) for change in self.causes]
        shared = [word for word in words[0] if all(word in others for others in words)]
        if (step := _widened(self.causes[0])) and not any(_outputs(step) in word for word in shared):
            shared = [f"{_outputs(step)} channels or features", *shared]  # a convolution and a Linear
        return ", ".join(shared)


def _outputs(step: _Step) -> str:
    return f"{step[0]} to {step[1]}"


def grouped(changes: Sequence[Moved]) -> list[Group]:
    """The changes that cost something, each in one group; the largest first. `changes` are those of every
    module of both sides, in the order of HEAD."""
    groups: dict[Any, Group] = {}
    blocks, doubtful = _blocks(changes), set[_Step]()
    for change in changes:
        if not (change.macs or change.params):
            continue
        cause = _cause(change, {key: group for key, group in groups.items() if key not in doubtful})
        doubtful |= _opaque(change)
        if cause is not None:
            cause.followers.append(change)
        elif change.path in blocks:
            groups.setdefault(("block", blocks[change.path]), Group([])).causes.append(change)
        else:
            key = _widened(change) or tuple(differences(change))
            groups.setdefault(key, Group([])).causes.append(change)
    made = _alike(groups)
    return sorted(made, key=lambda group: (-abs(group.macs), -abs(group.params)))


def _alike(groups: dict[Any, Group]) -> Iterator[Group]:
    """The groups; blocks that consist of the same layers as one."""
    same: dict[Any, list[tuple[str, Group]]] = {}
    for key, group in groups.items():
        if key[0] != "block":
            yield group
            continue
        top = key[1]
        layers = [(change.path[len(top) :], *(change.head or change.base)[1:3]) for change in group.causes]  # type: ignore[index]
        same.setdefault((_fate(group.causes[0]), *layers), []).append((top, group))
    for parts in same.values():
        causes = [change for _, group in parts for change in group.causes]
        yield Group(causes, blocks=tuple(top for top, _ in parts))


def _cause(change: Moved, groups: dict[Any, Group]) -> Group | None:
    """The group of layers that this one follows; None where it changed by itself, or none is certain."""
    if (step := _read(change)) is None:
        return None
    if step in groups or change.head is None or change.head.type != "Linear":
        return groups.get(step)
    flattened = [  # a Linear reads k pixels of each channel
        group
        for group in groups.values()
        if (wider := _widened(group.causes[0])) and _multiple(step, wider)
        and any(CHANNELS in word for word in differences(group.causes[0]))
    ]  # fmt: skip
    return flattened[0] if len(flattened) == 1 else None


def _multiple(step: _Step, of: _Step) -> bool:
    times, rest = divmod(step[0], of[0])
    return times > 1 and not rest and step[1] == times * of[1]


def _widened(change: Moved) -> _Step | None:
    """How many outputs a layer had and has, where that changed."""
    if change.base is None or change.head is None or change.base.type != change.head.type:
        return None
    base, head = outputs(change.base), outputs(change.head)
    return (base, head) if base and head and base != head else None


def _opaque(change: Moved) -> set[_Step]:
    """The sizes that changed in a weight of which nothing else is known: what comes after it may read it, and
    not what was widened alike before."""
    base, head = change.base, change.head
    if base is None or head is None or base.shape == head.shape or outputs(head) is not None:
        return set()
    old, new = base.shape.split("x"), head.shape.split("x")
    if len(old) != len(new) or _per_channel(base, head) is not None:
        return set()
    return {(int(a), int(b)) for a, b in zip(old, new) if a != b and (a + b).isdigit()}


def _read(change: Moved) -> _Step | None:
    """How many inputs, or parameters of a channel each, a layer had and has, where nothing else changed."""
    base, head = change.base, change.head
    if base is None or head is None or base.type != head.type or base.calls != head.calls:
        return None
    one, two = _both(change)
    if one is None or two is None:
        return _per_channel(base, head)
    if one.inputs is None or two.inputs is None or one.inputs == two.inputs:
        return None
    if one.outputs != two.outputs or one.others != two.others:
        return None
    if base.macs * two.inputs != head.macs * one.inputs:  # it also runs on another size
        return None
    return one.inputs, two.inputs


def _per_channel(base: Layer, head: Layer) -> _Step | None:
    """Of a norm, a scale or a token: its one dimension, of 64 or of 1x64x1."""
    one, two = ([size for size in layer.shape.split("x") if size != "1"] for layer in (base, head))
    if base.macs != head.macs or len(one) != 1 or len(two) != 1 or not (one[0] + two[0]).isdigit():
        return None
    return int(one[0]), int(two[0])


def _both(change: Moved) -> tuple[Widths | None, Widths | None]:
    """What the dimensions of the weight are on both sides; None where there are not both of one type."""
    base, head = change.base, change.head
    if base is None or head is None or base.type != head.type:
        return None, None
    return widths(base), widths(head)


def _fate(change: Moved) -> str:
    return "added" if change.base is None else "removed"


def _blocks(changes: Sequence[Moved]) -> dict[str, str]:
    """The outermost module around each layer that was added or removed with all others in that module."""
    fates: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for change in changes:
        fate = "stayed" if change.base and change.head else _fate(change)
        for around in _around(change.path):
            fates.setdefault(around, set()).add(fate)
            sizes[around] = sizes.get(around, 0) + 1
        for around in _around(change.base.path if change.base and change.renamed else ""):
            fates.setdefault(around, set()).add(fate)
    whole = {
        path for path, held in fates.items() if held in ({"added"}, {"removed"}) and sizes.get(path, 0) > 1
    }
    tops = {change.path: next(filter(whole.__contains__, _around(change.path)), "") for change in changes}
    return {path: top for path, top in tops.items() if top}


def _around(path: str) -> Iterator[str]:
    """The modules around a path, the outermost first, without the model itself."""
    parts = path.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts)))
