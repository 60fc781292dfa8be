"""Attention that a model writes out by hand: two products with a softmax between them.

What is added to the scores, or filled in, is a mask where its values follow from sizes alone, or come from
inputs and buffers; what comes from a parameter is a bias that the model has learned, and leaves every score.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from inspector.tracing.capture.kernels import aside
from inspector.tracing.capture.masks import MASKED
from inspector.tracing.capture.replay import replayed, strides_of
from inspector.tracing.formulas.traffic import tensors
from inspector.tracing.record import TensorSpec

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

SOFTMAX = {"aten._softmax", "aten._safe_softmax"}
PRODUCTS = {"aten.bmm", "aten.baddbmm", "aten.mm"}
_KEEPS = {
    f"aten.{name}"
    for name in """
        _to_copy cat clone constant_pad_nd copy div mul native_dropout neg sub tanh
    """.split()
}
"""Operators that move no score to another place; with `_MASKS` they may stand between the products."""
_MASKS = {"aten.add", "aten.masked_fill", "aten.where"}
_STEPS = 32
_SCORES = 2**28
"""The largest mask whose values are worked out."""


class _Term(NamedTuple):
    """What masks scores: a tensor as it is before call `until`, and which of its values leave a score."""

    spec: TensorSpec
    strides: tuple[int, ...]
    until: int
    leaves: Callable[[Tensor], Tensor]


class WrittenOut:
    """Notes at both products of an attention that is written out which share of the scores its masks leave,
    as soon as the second has run: their gradients, recorded later, take it over."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.calls = recorder, recorder.raw
        self._writers: dict[int, list[int]] = {}
        self._until = 0
        self._softmaxes: list[int] = []
        self._repeated: set[tuple[str, str]] = set()  # a checkpoint stops before the second product
        self._shares: dict[Any, float | None] = {}

    def see(self, index: int) -> None:
        """A softmax, or a product that may be the second, was recorded as call `index`."""
        call = self.calls[index]
        if call.operator.name in SOFTMAX:
            self._softmaxes.append(index)
            if (call.phase, call.path) in self._repeated:
                self._settle(index)
            return
        while self._softmaxes and self._softmaxes[-1] < index - _STEPS:
            self._softmaxes.pop()
        if self._softmaxes and self._consumes(index, self._softmaxes[-1]):
            self._repeated.add(("backward", call.path))
            self._settle(self._softmaxes.pop(), index)

    def _settle(self, softmax: int, second: int | None = None) -> None:
        self._read_on()
        terms: list[_Term] = []
        first = self._product(tensors(self.calls[softmax].args)[0].storage, softmax, terms)
        if first is not None and terms:
            share = self._share(terms)
            for product in (first, second):
                if product is not None:
                    self.recorder.masked(product, share)

    def _consumes(self, product: int, softmax: int) -> bool:
        """Whether the first matrix of a product holds the results of a softmax."""
        holding = {spec.storage for spec in tensors(self.calls[softmax].result)}
        for call in self.calls[softmax + 1 : product]:
            if call.operator.name.removesuffix("_") in _KEEPS | _MASKS:
                if any(spec.storage in holding for spec in tensors(call.args)):
                    holding |= {spec.storage for spec in tensors(call.result)}
        return tensors(self.calls[product].args)[-2].storage in holding

    def _read_on(self) -> None:
        """Note who writes each storage, as far as the record goes by now."""
        for index in range(self._until, len(self.calls)):
            call = self.calls[index]
            taken = {spec.storage for spec in tensors(call.args)}
            wrote = {spec.storage for spec in tensors(call.result)} - taken
            for place in call.operator.written:
                wrote |= {spec.storage for spec in tensors(call.args[place : place + 1])}
            for storage in wrote:
                self._writers.setdefault(storage, []).append(index)
        self._until = len(self.calls)

    def _last(self, storage: int, before: int) -> int | None:
        """The last call before `before` that wrote a storage."""
        writers = self._writers.get(storage, [])
        position = bisect_left(writers, before)
        return writers[position - 1] if position else None

    def _product(self, storage: int, before: int, terms: list[_Term], steps: int = _STEPS) -> int | None:
        """The product whose scores a storage holds before call `before`, None where it holds no scores;
        what masks them on the way joins `terms`."""
        index = self._last(storage, before)
        if index is None or not steps:
            return None
        call = self.calls[index]
        name = call.operator.name.removesuffix("_")
        if name in PRODUCTS:
            if name == "aten.baddbmm" and call.kwargs.get("beta", 1):
                terms.append(self._term(index, 0, _added))
            return index
        if name not in _MASKS and name not in _KEEPS:
            return None
        for place, value in enumerate(call.args):
            for spec in tensors(value):
                product = self._product(spec.storage, index, terms, steps - 1)
                if product is not None:
                    terms += self._masks(name, index, place)
                    return product
        return None

    def _masks(self, name: str, index: int, scores: int) -> Iterator[_Term]:
        """What call `index` does to the scores in its argument `scores`."""
        if name == "aten.add":
            other = self.calls[index].args[1 - scores]
            yield from [self._term(index, 1 - scores, _added)] if isinstance(other, TensorSpec) else []
        elif name == "aten.masked_fill":
            yield self._term(index, 1, torch.logical_not)
        elif name == "aten.where":
            yield self._term(index, 0, torch.logical_not if scores == 2 else torch.clone)

    def _term(self, index: int, place: int, leaves: Callable[[Tensor], Tensor]) -> _Term:
        call = self.calls[index]
        return _Term(call.args[place], strides_of(call, place), index, leaves)

    def _share(self, terms: Sequence[_Term]) -> float | None:
        """The share of the scores that all terms leave; None where a mask's values are not known."""
        key = tuple(
            (term.spec, term.strides, self._last(term.spec.storage, term.until), term.leaves)
            for term in terms
        )
        if key not in self._shares:
            self._shares[key] = self._worked_out(terms)
        return self._shares[key]

    def _worked_out(self, terms: Sequence[_Term]) -> float | None:
        masks: list[Tensor] = []
        open_ = list(terms)
        while open_:
            term = open_.pop()
            if term.spec.numel > _SCORES:
                return None
            values = replayed(self.calls[: term.until], self.recorder.storages, term.spec, term.strides)
            if values is not None:
                with aside(), torch.no_grad():
                    left = term.leaves(values)
                    masks += [] if bool(left.all()) else [left]
            elif (parts := self._addends(term)) is not None:  # a mask may be added to a learned bias
                open_ += parts
            elif not self._learned(term.spec.storage, term.until):
                return None
        return _common(masks)

    def _addends(self, term: _Term) -> list[_Term] | None:
        index = self._last(term.spec.storage, term.until)
        if index is None or term.leaves is not _added or self.calls[index].operator.name != "aten.add":
            return None
        values = self.calls[index].args[:2]
        return [
            self._term(index, i, _added) for i, value in enumerate(values) if isinstance(value, TensorSpec)
        ]

    def _learned(self, storage: int, before: int) -> bool:
        """Whether a parameter is among what a storage comes from."""
        open_, seen = [(storage, before)], set()
        while open_:
            storage, until = open_.pop()
            if storage < 0 or storage in seen:
                continue
            seen.add(storage)
            if self.recorder.storages[storage][2] == "parameter":
                return True
            for index in self._writers.get(storage, []):
                if index < until:
                    open_ += [(spec.storage, index) for spec in tensors(self.calls[index].args)]
        return False


def _common(masks: Sequence[Tensor]) -> float | None:
    """The share that all masks leave."""
    if len({mask.dim() for mask in masks}) > 1:
        return None
    with aside(), torch.no_grad():
        together = masks[0] if masks else torch.ones(1, dtype=torch.bool)
        for mask in masks[1:]:
            together = together & mask
        return int(together.count_nonzero()) / together.numel()


def _added(values: Tensor) -> Tensor:
    """What is added to a score leaves it, unless the softmax is 0 there."""
    return values > MASKED
