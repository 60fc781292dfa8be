"""Which tensors share memory, told by their addresses.

Neither the storage nor torch's own bookkeeping tells: one memory has several storages when it came through
NumPy or DLPack, and columns of one matrix share a storage without sharing an element.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from inspector.tracing.subclass import parts

LARGEST_MASK = 2**28
"""Elements between the ends of two tensors up to which it is looked up which of them meet."""


@dataclass(frozen=True)
class Span:
    """The elements of `part` lie between the addresses `start` and `stop` (in bytes) of one device."""

    device: str
    start: int
    stop: int
    part: Tensor

    @property
    def dense(self) -> bool:
        return self.stop - self.start == self.part.numel() * self.part.element_size()

    def meets(self, other: Span) -> bool:
        """Whether the ranges have a byte in common."""
        return self.device == other.device and max(self.start, other.start) < min(self.stop, other.stop)


def spans(tensor: Tensor) -> list[Span]:
    """Where a tensor's elements are, one range for each tensor that it is kept as. Empty for tensors
    without an address: lazy, empty, or on meta."""
    if is_lazy(tensor):
        return []
    found = []
    for part in parts(tensor):
        try:
            start = part.data_ptr()
        except (RuntimeError, NotImplementedError):  # fake tensors, opaque layouts
            continue
        if start and part.numel() and part.layout is torch.strided:
            reach = 1 + sum((size - 1) * stride for size, stride in zip(part.shape, part.stride()))
            found.append(Span(str(part.device), start, start + reach * part.element_size(), part))
    return found


def overlap(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors have a byte of memory in common."""
    if left is right:
        return True
    return any(a.meets(b) and _meet(a, b) for a in spans(left) for b in spans(right))


def _meet(a: Span, b: Span) -> bool:
    """Whether elements coincide, of two whose ranges do: the columns of a matrix need not."""
    if a.dense and b.dense:
        return True
    unit = math.gcd(a.part.element_size(), b.part.element_size(), abs(a.start - b.start))
    low, high = min(a.start, b.start), max(a.stop, b.stop)
    if (high - low) // unit > LARGEST_MASK:
        return True
    mask = torch.zeros((high - low) // unit, dtype=torch.bool)
    try:
        _cells(mask, a, low, unit).fill_(True)
    except RuntimeError:  # elements of one tensor that coincide with each other
        return True
    return bool(_cells(mask, b, low, unit).any())


def _cells(mask: Tensor, span: Span, low: int, unit: int) -> Tensor:
    """The mask's cells that a tensor's elements cover; what is expanded counts once."""
    cells = span.part.element_size() // unit
    sizes = [size if stride else 1 for size, stride in zip(span.part.shape, span.part.stride())]
    strides = [stride * cells for stride in span.part.stride()]
    return mask.as_strided((*sizes, cells), (*strides, 1), (span.start - low) // unit)


def neighbours(tensors: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """The names of tensors whose ranges meet, group by group; those that are alone are left out."""
    placed = [(span, name) for name, tensor in tensors.items() for span in spans(tensor)]
    placed.sort(key=lambda entry: (entry[0].device, entry[0].start))
    group: list[str] = []
    device, end = "", 0
    for span, name in placed:
        if group and (span.device != device or span.start >= end):
            if len(group) > 1:
                yield group
            group, end = [], 0
        group.append(name)
        device, end = span.device, max(end, span.stop)
    if len(group) > 1:
        yield group
