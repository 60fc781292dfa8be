"""What share of the scores of an attention its masks leave.

A causal flag tells it, or the mask itself: where that is True or, added to the scores, above -10,000. On meta
a mask has no values; most are made of sizes alone, and those are computed again on the CPU. What comes from a
parameter is a bias that the model has learned, and leaves every score.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from inspector.tracing.capture.kernels import aside
from inspector.tracing.capture.replay import replayed, strides_of
from inspector.tracing.formulas.traffic import tensors
from inspector.tracing.record import Op, TensorSpec

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
_MASKED = -10_000.0
"""The softmax of what this is added to is 0 in every dtype; models write minus infinity, a dtype's lowest
value, -1e9 or -1e4."""
_SCORES = 2**28
"""The largest mask whose values are worked out."""
Leaves = Callable[[Tensor], Tensor]


def share_left(recorder: Recorder, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float | None:
    """For a call of `scaled_dot_product_attention`: None where the values of its mask are not known."""
    given = {**dict(zip(_NAMES, args)), **kwargs}
    if given.get("is_causal"):  # row i sees i + 1 keys
        length, source = given["query"].shape[-2], given["key"].shape[-2]
        square = min(length, source)
        seen = square * (square + 1) // 2 + (length - square) * source
        return seen / (length * source) if length * source else 1.0
    mask = given.get("attn_mask")
    if not isinstance(mask, Tensor):
        return recorder.density
    if mask.device.type != "meta":
        return _read(mask)
    return recorder.masks.share([Term(recorder.spec(mask), mask.stride(), len(recorder.raw), left_by)])


def unread(ops: Sequence[Op]) -> tuple[str, ...]:
    """What to say where the masks of some attentions are known and those of others are not."""
    shares = {op.density for op in ops if op.macs}
    if None not in shares or not shares - {None, 1.0}:
        return ()
    why = "some masks depend on values that meta does not have"
    return (f"{why}: how many scores they leave is not known, and no MACs under masks are given",)


def left_by(mask: Tensor) -> Tensor:
    """The scores that a mask leaves: a flag says so, a number that is added unless the softmax then is 0."""
    return mask if mask.dtype is torch.bool else mask > _MASKED


def _read(mask: Tensor) -> float | None:
    try:
        with aside(), torch.no_grad():
            once = mask[tuple(slice(0, 1) if step == 0 else slice(None) for step in mask.stride())]
            return int(left_by(once).count_nonzero()) / once.numel() if once.numel() else 1.0
    except (RuntimeError, NotImplementedError):  # a nested or otherwise special tensor
        return None


class Term(NamedTuple):
    """What masks scores: a tensor as it is before call `until`, and which of its values leave a score."""

    spec: TensorSpec
    strides: tuple[int, ...]
    until: int
    leaves: Leaves


class Masks:
    """The masks of a record, worked out from its operators. Layers that share a mask share the work, as long
    as nothing writes to it."""

    def __init__(self, recorder: Recorder) -> None:
        self.calls, self.storages, self.kept = recorder.raw, recorder.storages, recorder.kept
        self._writers: dict[int, list[int]] = {}
        self._until = 0
        self._shares: dict[Any, float | None] = {}

    def last_writer(self, storage: int, before: int) -> int | None:
        """The last call before `before` that made a storage or wrote to it; None where it was there."""
        if self._until < len(self.calls):
            for index, call in enumerate(self.calls[self._until :], self._until):
                for place in call.operator.written:
                    for spec in tensors(call.args[place : place + 1]):
                        self._writers.setdefault(spec.storage, []).append(index)
            self._until = len(self.calls)
        writers = self._writers.get(storage, ())
        position = bisect_left(writers, before)
        if position:
            return writers[position - 1]
        birth: int | None = self.storages[storage][3] if storage >= 0 else None
        return birth if birth is not None and birth < before else None

    def term(self, index: int, place: int, leaves: Leaves) -> Term:
        """Argument `place` of call `index` as a mask."""
        call = self.calls[index]
        return Term(call.args[place], strides_of(call, place), index, leaves)

    def share(self, terms: Sequence[Term]) -> float | None:
        """The share of the scores that all terms leave; None where a mask's values are not known."""
        key = tuple(
            (term.spec, term.strides, self.last_writer(term.spec.storage, term.until), term.leaves)
            for term in terms
        )
        if key not in self._shares:
            self._shares[key] = self._worked_out(list(terms))
        return self._shares[key]

    def _worked_out(self, terms: list[Term]) -> float | None:
        masks: list[Tensor] = []
        while terms:
            term = terms.pop()
            if self._learned(term.spec, term.until):
                terms += self._addends(term)  # a mask may have been added to a bias
                continue
            if term.spec.numel > _SCORES:
                return None
            values = replayed(self.calls, self.storages, term.spec, term.strides, term.until, self.kept)
            if values is None:
                return None
            with aside(), torch.no_grad():
                left = term.leaves(values)
                masks += [] if bool(left.all()) else [left]
        return _common(masks)

    def _learned(self, spec: TensorSpec, before: int) -> bool:
        """Whether a parameter is among what a tensor comes from, by numbers alone: a comparison with what
        was learned may hide scores."""
        open_, seen = [(spec, before)], set()
        while open_:
            spec, until = open_.pop()
            if spec.storage < 0 or spec.storage in seen or "float" not in spec.dtype:
                continue
            seen.add(spec.storage)
            if self.storages[spec.storage][2] == "parameter":
                return True
            index = self.last_writer(spec.storage, until)
            while index is not None:
                open_ += [(source, index) for source in tensors(self.calls[index].args)]
                index = self.last_writer(spec.storage, index)
        return False

    def _addends(self, term: Term) -> list[Term]:
        index = self.last_writer(term.spec.storage, term.until)
        if index is None or self.calls[index].operator.name != "aten.add":
            return []
        args = self.calls[index].args[:2]
        return [self.term(index, i, left_by) for i, value in enumerate(args) if isinstance(value, TensorSpec)]


def _common(masks: Sequence[Tensor]) -> float | None:
    """The share that all masks leave."""
    if not masks:
        return 1.0
    if len({mask.dim() for mask in masks}) > 1:
        return None
    with aside(), torch.no_grad():
        together = masks[0]
        for mask in masks[1:]:
            together = together & mask
        return int(together.count_nonzero()) / together.numel()
