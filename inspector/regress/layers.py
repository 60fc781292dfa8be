"""Where it changed: the modules whose own numbers explain the difference of two totals.

Modules are paired by path and numbers, then by shape in the order of the model (a renamed or shifted
module), then by path alone (a changed one), then by a renaming that their neighbours went through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from inspector.regress.content import Layer

MOST_ALIGNED = 3000
"""With more unpaired modules on a side only the equal start is aligned: the search is quadratic."""


@dataclass(frozen=True)
class Moved:
    """A module on both sides, or on one; `macs` and `params` are HEAD's less BASE's."""

    base: Layer | None
    head: Layer | None

    @property
    def path(self) -> str:
        return (self.head or self.base).path  # type: ignore[union-attr]

    @property
    def macs(self) -> int:
        return (self.head.macs if self.head else 0) - (self.base.macs if self.base else 0)

    @property
    def params(self) -> int:
        return (self.head.params if self.head else 0) - (self.base.params if self.base else 0)

    @property
    def renamed(self) -> bool:
        return self.base is not None and self.head is not None and self.base.path != self.head.path


def moved(base: Sequence[Layer], head: Sequence[Layer]) -> list[Moved]:
    """Every module of both sides, once, in the order of HEAD, then those that are gone. The sums of
    `macs` and `params` over it are the differences of the two totals."""
    pairs = _paired(list(base), list(head))
    by_head = {b.path: a for a, b in pairs}
    taken = {a.path for a, _ in pairs}
    return [Moved(by_head.get(layer.path), layer) for layer in head] + [
        Moved(layer, None) for layer in base if layer.path not in taken
    ]


def _paired(base: list[Layer], head: list[Layer]) -> list[tuple[Layer, Layer]]:
    pairs: list[tuple[Layer, Layer]] = []

    def take(matches: Iterable[tuple[Layer, Layer]]) -> None:
        nonlocal base, head
        pairs.extend(matches)
        old, new = {a.path for a, _ in pairs}, {b.path for _, b in pairs}
        base = [layer for layer in base if layer.path not in old]
        head = [layer for layer in head if layer.path not in new]

    take(_by_path(base, head, _signature))
    take(_aligned(base, head))
    renamings = _renamings(pairs)
    take(_by_path(base, head, lambda layer: layer.type))
    take(_by_path(base, head, lambda layer: None))
    take(_by_renaming(base, head, renamings))
    return pairs


def _signature(layer: Layer) -> Any:
    return layer[1:]


def _by_path(
    base: list[Layer], head: list[Layer], key: Callable[[Layer], Any]
) -> Iterable[tuple[Layer, Layer]]:
    there = {layer.path: layer for layer in base}
    for layer in head:
        other = there.get(layer.path)
        if other is not None and key(other) == key(layer):
            yield other, layer


def _aligned(base: list[Layer], head: list[Layer]) -> Iterable[tuple[Layer, Layer]]:
    """The modules of equal signature, in the same order on both sides."""
    one, two = list(map(_signature, base)), list(map(_signature, head))
    front = 0
    while front < min(len(one), len(two)) and one[front] == two[front]:
        yield base[front], head[front]
        front += 1
    if max(len(one), len(two)) - front > MOST_ALIGNED:
        return
    matcher = SequenceMatcher(None, one[front:], two[front:], autojunk=False)
    for a, b, size in matcher.get_matching_blocks():
        yield from zip(base[front + a : front + a + size], head[front + b : front + b + size])


def _renamings(pairs: list[tuple[Layer, Layer]]) -> dict[str, str]:
    """What each renamed module's enclosing module is called now, by the most of its renamed modules."""
    votes: dict[str, Counter[str]] = {}
    for a, b in pairs:
        old, new = _parent(a.path), _parent(b.path)
        while old != new:
            votes.setdefault(old, Counter())[new] += 1
            if old.rpartition(".")[2] != new.rpartition(".")[2] or not old or not new:
                break
            old, new = _parent(old), _parent(new)
    return {old: counted.most_common(1)[0][0] for old, counted in votes.items()}


def _by_renaming(
    base: list[Layer], head: list[Layer], renamings: dict[str, str]
) -> Iterable[tuple[Layer, Layer]]:
    there = {layer.path: layer for layer in head}
    for layer in base:
        name = _renamed(layer.path, renamings)
        if name in there:
            yield layer, there.pop(name)


def _renamed(path: str, renamings: dict[str, str]) -> str:
    """The path under the renaming of the innermost module around it that has one."""
    around, rest = _parent(path), path.rpartition(".")[2]
    while around not in renamings and around:
        around, _, last = around.rpartition(".")
        rest = f"{last}.{rest}"
    if around not in renamings:
        return path
    return f"{renamings[around]}.{rest}" if renamings[around] else rest


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def described(change: Moved) -> str:
    """A phrase for what happened to the module: `512 to 768 channels`."""
    base, head = change.base, change.head
    if base is None:
        return f"added: {_what(head)}"
    if head is None:
        return f"removed: {_what(base)}"
    was = [f"was {base.path or 'the model itself'}"] if change.renamed else []
    return ", ".join(was + differences(change)) or "the same"


def differences(change: Moved) -> list[str]:
    """What is not as it was in a module that both sides have, besides its name: a phrase each."""
    base, head = change.base, change.head
    if base is None or head is None:
        return [described(change)]
    parts = []
    if base.type != head.type:
        parts.append(f"{base.type} to {head.type}")
    if base.shape != head.shape:
        parts += _reshaped(base, head)
    if base.calls != head.calls:
        parts.append(f"{base.calls} to {head.calls} calls")
    if base.shape == head.shape and base.calls == head.calls and base.macs != head.macs:
        parts.append("same weights on another size of input or output")
    return parts


def _what(layer: Layer | None) -> str:
    assert layer is not None
    return f"{layer.type} {layer.shape}".strip()


class Widths(NamedTuple):
    """The dimensions of a weight by what they mean; `others` are a kernel, or an embedding's entries."""

    outputs: int
    inputs: int | None
    others: tuple[str, ...]
    noun: str


CHANNELS, FEATURES = "channels", "features"


def widths(layer: Layer) -> Widths | None:
    """Those of a convolution, a Linear or an embedding; None of any other layer."""
    sizes = layer.shape.split("x")
    if not all(size.isdigit() for size in sizes):
        return None
    if "Conv" in layer.type and len(sizes) in (3, 4, 5):
        out, into = (1, 0) if "Transpose" in layer.type else (0, 1)
        return Widths(int(sizes[out]), int(sizes[into]), tuple(sizes[2:]), CHANNELS)
    if len(sizes) != 2:
        return None
    if layer.type == "Embedding":
        return Widths(int(sizes[1]), None, (sizes[0],), FEATURES)
    if layer.type in _LINEAR:
        out, into = (1, 0) if layer.type == "Conv1D" else (0, 1)
        return Widths(int(sizes[out]), int(sizes[into]), (), FEATURES)
    return None


_LINEAR = ("Linear", "NonDynamicallyQuantizableLinear", "MultiheadAttention", "Conv1D")
"""torch's own, those of its attention, and transformers' whose weight lies the other way round."""
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def outputs(layer: Layer) -> int | None:
    """How many channels or features a layer writes; None where its weight does not tell. A recurrent layer's
    largest weight has as many rows as gates times features, and reads its input or its own state."""
    known = widths(layer)
    if known is not None:
        return known.outputs
    rows = layer.shape.split("x")[0]
    gates = _GATES.get(layer.type)
    return int(rows) // gates if gates and rows.isdigit() else None


def _reshaped(base: Layer, head: Layer) -> list[str]:
    """Weights whose dimensions have a meaning by it, others as they are."""
    old, new = widths(base), widths(head)
    if base.type != head.type or old is None or new is None or len(old.others) != len(new.others):
        return [f"shape {base.shape or 'none'} to {head.shape or 'none'}"]
    parts = []
    if old.outputs != new.outputs:
        parts.append(f"{old.outputs} to {new.outputs} {new.noun}")
    if old.inputs != new.inputs:
        parts.append(f"{old.inputs} to {new.inputs} input {new.noun}")
    if old.others != new.others:
        what = "kernel" if new.noun == CHANNELS else "entries"
        parts.append(f"{'x'.join(old.others)} to {'x'.join(new.others)} {what}")
    return parts
