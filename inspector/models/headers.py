"""The header of a safetensors file, checked against the size of the file: names, shapes and dtypes.

The format (huggingface/safetensors, README): 8 bytes with the length of the header, little-endian; the
header, JSON of {name: {dtype, shape, data_offsets: [begin, end]}}; then the data, in which the tensors leave
no gaps.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

from inspector.core.errors import InspectError
from inspector.models import header
from inspector.models.head import Head
from inspector.tracing.record import StateEntry

LONGEST = 100_000_000
"""Bytes of a header that the safetensors library accepts."""
AGAIN = "download it again, or name another file"
_CODE = re.compile(r"BOOL|[A-Z]+\d+(_[A-Z0-9]+)?")


@dataclass(frozen=True)
class Placed:
    """A tensor and the bytes that it takes in the data."""

    entry: StateEntry
    begin: int
    end: int


class Refused(Exception):
    """What is wrong with a header."""


def safetensors(head: Head) -> tuple[StateEntry, ...]:
    """The tensors in the order of their data. Raises InspectError where the header contradicts itself or the
    file."""
    try:
        return _read(head)
    except Refused as error:
        raise damaged(head, str(error)) from error


def damaged(head: Head, why: str) -> InspectError:
    return InspectError(f"{head.name} is damaged: {why}", AGAIN)


def _read(head: Head) -> tuple[StateEntry, ...]:
    if head.size < 8:
        raise Refused(f"it has {head.size} bytes, and a safetensors file begins with 8")
    length = int.from_bytes(head.first(8), "little")
    if length > head.size - 8:
        raise Refused(f"its header of {length:,} bytes does not fit into its {head.size:,}")
    if length > LONGEST:
        raise Refused(f"its header has {length:,} bytes, and {LONGEST:,} are the most")
    placed = [
        _tensor(name, about)
        for name, about in _content(head.first(8 + length)[8:]).items()
        if name != "__metadata__"
    ]
    _contiguous(placed, head.size - 8 - length)
    if not placed:
        raise Refused("it holds no tensors")
    return tuple(tensor.entry for tensor in sorted(placed, key=lambda tensor: (tensor.begin, tensor.end)))


def _content(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused("its header is no JSON") from error
    if not isinstance(content, dict):
        raise Refused("its header is no JSON object")
    return content


def once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs of a JSON object; a name that stands there twice is refused."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise Refused(f"{name[:100]!r} stands in it twice")
        content[name] = value
    return content


def _tensor(name: str, about: Any) -> Placed:
    match about:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [begin, end]}:
            pass
        case _:
            raise Refused(f"{name[:100]!r} lacks dtype, shape or data_offsets")
    if not _CODE.fullmatch(code) or not all(map(is_count, (*shape, begin, end))) or end < begin:
        raise Refused(f"{name[:100]!r} has a dtype, a shape or an offset that cannot be")
    entry = header.safetensor(name, tuple(shape), code)
    if prod(shape) * header.bits(code) != 8 * (end - begin):
        raise Refused(f"{name[:100]!r} needs another number of bytes than the {end - begin:,} that it names")
    return Placed(entry, begin, end)


def is_count(value: Any) -> bool:
    """Whether a number can be a dimension or a place in a file."""
    return type(value) is int and 0 <= value < 2**63


def _contiguous(placed: Iterable[Placed], nbytes: int) -> None:
    """Tensors follow one another without gap or overlap, up to the end of the file."""
    end = 0
    for tensor in sorted(placed, key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            raise Refused(f"{tensor.entry.name[:100]!r} overlaps another tensor, or leaves a gap")
        end = tensor.end
    if end != nbytes:
        raise Refused(f"its tensors take {end:,} bytes, and {nbytes:,} follow the header")
