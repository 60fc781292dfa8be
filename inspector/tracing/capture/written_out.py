"""Attention that a model writes out by hand: two products with a softmax between them.

What is added to the scores on their way to the softmax, or filled in, masks them (see `masks`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from inspector.tracing.capture.masks import Term, left_by
from inspector.tracing.formulas.traffic import tensors
from inspector.tracing.record import TensorSpec

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

_SOFTMAX = {"aten._softmax", "aten._safe_softmax"}
_PRODUCTS = {"aten.bmm", "aten.baddbmm", "aten.mm"}
PARTS = _SOFTMAX | _PRODUCTS
_MASKS = {"aten.add", "aten.masked_fill", "aten.where"}
_BETWEEN = _MASKS | {
    f"aten.{name}"
    for name in """
        _to_copy cat clone constant_pad_nd copy div mul native_dropout neg sub tanh
    """.split()
}
"""Operators that move no score to another place: they may stand between the products."""
_STEPS = 32


class WrittenOut:
    """Notes at both products of an attention that is written out which share of the scores its masks leave,
    as soon as the second has run: their gradients, recorded later, take it over."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.calls, self.masks = recorder, recorder.raw, recorder.masks
        self._softmaxes: list[int] = []
        self._repeated: set[tuple[str, str]] = set()  # a checkpoint stops before the second product

    def see(self, index: int) -> None:
        """A softmax, or a product that may be the second, was recorded as call `index`."""
        call = self.calls[index]
        if call.operator.name in _SOFTMAX:
            self._softmaxes.append(index)
            if (call.phase, call.path) in self._repeated:
                self._settle(index)
            return
        while self._softmaxes and self._softmaxes[-1] < index - _STEPS:
            self._softmaxes.pop()
        if self._softmaxes and self._consumes(index, self._softmaxes[-1]):
            self._repeated.add(("backward", call.path))
            self._settle(self._softmaxes.pop(), index)

    def _consumes(self, product: int, softmax: int) -> bool:
        """Whether the first matrix of a product holds the results of a softmax."""
        holding = {spec.storage for spec in tensors(self.calls[softmax].result)}
        for call in self.calls[softmax + 1 : product]:
            if call.operator.name.removesuffix("_") in _BETWEEN:
                if any(spec.storage in holding for spec in tensors(call.args)):
                    holding |= {spec.storage for spec in tensors(call.result)}
        return tensors(self.calls[product].args)[-2].storage in holding

    def _settle(self, softmax: int, second: int | None = None) -> None:
        terms: list[Term] = []
        first = self._product(tensors(self.calls[softmax].args)[0].storage, softmax, terms)
        if first is not None and terms:
            share = self.masks.share(terms)
            for product in (first, second):
                if product is not None:
                    self.recorder.masked(product, share)

    def _product(self, storage: int, before: int, terms: list[Term], steps: int = _STEPS) -> int | None:
        """The product whose scores a storage holds before call `before`, None where it holds no scores;
        what masks them on the way joins `terms`."""
        index = self.masks.last_writer(storage, before)
        if index is None or not steps:
            return None
        call = self.calls[index]
        name = call.operator.name.removesuffix("_")
        if name in _PRODUCTS:
            if name == "aten.baddbmm" and call.kwargs.get("beta", 1):
                terms.append(self.masks.term(index, 0, left_by))
            return index
        if name not in _BETWEEN:
            return None
        for place, value in enumerate(call.args):
            for spec in tensors(value):
                product = self._product(spec.storage, index, terms, steps - 1)
                if product is not None:
                    terms += self._terms(name, index, place)
                    return product
        return None

    def _terms(self, name: str, index: int, scores: int) -> Iterator[Term]:
        """What call `index` does to the scores in its argument `scores`."""
        if name == "aten.add":
            other = self.calls[index].args[1 - scores]
            yield from [self.masks.term(index, 1 - scores, left_by)] if isinstance(other, TensorSpec) else []
        elif name == "aten.masked_fill":
            yield self.masks.term(index, 1, torch.logical_not)
        elif name == "aten.where":
            yield self.masks.term(index, 0, torch.logical_not if scores == 2 else left_by)
