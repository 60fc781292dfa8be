"""The header of a GGUF file (llama.cpp): tensors with their quantised types, what the file says of itself.

The format (ggml, docs/gguf.md): magic, version, the numbers of tensors and of key-value pairs; the pairs; for
each tensor its name, dimensions (innermost first), type and offset; then the data. Strings and arrays begin
with their length. The package `gguf` knows the types: how many elements a block has, and how many bytes. Its
own reader needs the whole file, takes 35 s for a vocabulary of 262,144 tokens, and believes every length.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from inspector.core.errors import InspectError
from inspector.models.head import Head
from inspector.models.headers import Placed, Refused, damaged
from inspector.tracing.record import StateEntry

LONGEST = 2**27
"""Bytes of a header at most: the vocabulary of 262,144 tokens takes 15 MB."""
FIRST, GROWTH = 2**19, 4
"""Bytes that are read first, and how many times more when they are not enough."""
DIMENSIONS, DEPTH = 4, 4
"""How many dimensions a tensor of ggml has at most, and how deep arrays may nest here."""
MOST_PARTS = 2_000
"""Of a split file."""
SUFFIX = ".gguf"
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The struct formats of GGUF's value types; 8 is a string, 9 an array."""
_STRING, _ARRAY = 8, 9
_LEAST_PAIR, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
"""Bytes of the shortest key-value pair and tensor."""
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True)
class Gguf:
    """Tensors in the order of the file, and the key-value pairs whose values are numbers or strings."""

    entries: tuple[StateEntry, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)


def library() -> Any:
    """The package `gguf`."""
    try:
        import gguf
    except ImportError as error:
        raise InspectError(
            "gguf is not installed", "install it with: pip install 'torch-inspector[gguf]'"
        ) from error
    return gguf


def read(head: Head) -> Gguf:
    """The header of a GGUF file of version 2 or 3. Raises InspectError where it contradicts itself or the
    file, and for a type that the installed package does not know."""
    types = _types(library())
    count = FIRST
    while True:
        try:
            read = _parsed(_Reader(head.first(count), head.size), types)
            break
        except _Short:
            if count >= min(head.size, LONGEST):
                why = "its header does not end" if count < head.size else "it ends within its header"
                raise damaged(head, why) from None
            count = min(count * GROWTH, LONGEST)
        except Refused as error:
            raise damaged(head, str(error)) from error
    if not read.entries:  # a vocabulary alone
        raise InspectError(f"{head.name} holds no tensors", "name another file")
    return read


def parts(name: str) -> tuple[str, ...]:
    """The names of all parts of a split file (`NAME-00001-of-00003.gguf`); of another file, its own."""
    told = _PART.fullmatch(name)
    if told is None or not 1 <= int(told[2]) <= int(told[3]) <= MOST_PARTS:
        return (name,)
    return tuple(f"{told[1]}-{index + 1:05}-of-{told[3]}.gguf" for index in range(int(told[3])))


def file_type(metadata: Mapping[str, Any]) -> str:
    """The scheme that most tensors follow, "Q4_K_M", by the name that llama.cpp gives it; "" where the file
    does not say it."""
    try:
        name: str = library().LlamaFileType(metadata.get("general.file_type")).name
    except ValueError:
        return ""
    return name.removeprefix("MOSTLY_").removeprefix("ALL_")


def _types(package: Any) -> dict[int, tuple[str, int, int]]:
    """By number: a type's name, the elements of a block and its bytes."""
    return {int(kind): (kind.name, *sizes) for kind, sizes in package.GGML_QUANT_SIZES.items()}


class _Short(Exception):
    """The header goes on beyond the bytes that were read."""


class _Reader:
    """Reads the beginning of a file from front to back. Raises Refused for what does not fit into the file,
    _Short for what does not fit into the beginning."""

    def __init__(self, content: bytes, size: int) -> None:
        self._content, self.size, self.place, self._order = content, size, 0, "<"

    def swap(self) -> None:
        """From here on numbers are big-endian."""
        self._order = ">"

    def take(self, count: int) -> bytes:
        end = self.place + count
        if end > self.size:
            raise Refused(f"what begins at byte {self.place:,} ends beyond its {self.size:,}")
        if end > len(self._content):
            raise _Short
        begin, self.place = self.place, end
        return self._content[begin:end]

    def number(self, kind: str) -> Any:
        return struct.unpack(self._order + kind, self.take(struct.calcsize(self._order + kind)))[0]

    def count(self, least: int) -> int:
        """How many of something follow, each of `least` bytes or more."""
        count: int = self.number("Q")
        if count * least > self.size - self.place:
            raise Refused(f"{count:,} entries at byte {self.place:,} do not fit into its {self.size:,}")
        return count

    def text(self) -> str:
        try:
            return self.take(self.count(1)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refused(f"a name before byte {self.place:,} is no text") from error

    def skip_texts(self, count: int) -> None:
        """Pass over strings, of which a vocabulary has hundreds of thousands."""
        length_at, place = struct.Struct(self._order + "Q").unpack_from, self.place
        for _ in range(count):
            if place + 8 > len(self._content):
                break
            place += 8 + length_at(self._content, place)[0]
        else:
            self.take(place - self.place)
            return
        self.take(place + 8 - self.place)


def _parsed(reader: _Reader, types: Mapping[int, tuple[str, int, int]]) -> Gguf:
    if reader.take(4) != b"GGUF":
        raise Refused("it does not begin with GGUF")
    version = reader.number("I")
    if version & 0xFFFF == 0:
        reader.swap()
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in (2, 3):
        raise Refused(f"version {version} of GGUF is not known, 2 and 3 are")
    tensors, pairs = reader.count(_LEAST_TENSOR), reader.count(_LEAST_PAIR)
    metadata = dict(_pairs(reader, pairs))
    placed = [_tensor(reader, types) for _ in range(tensors)]
    _check_data(reader, placed, metadata.get("general.alignment", 32))
    return Gguf(
        tuple(tensor.entry for tensor in placed), {k: v for k, v in metadata.items() if v is not None}
    )


def _pairs(reader: _Reader, count: int) -> Iterator[tuple[str, Any]]:
    seen = set[str]()
    for _ in range(count):
        key = reader.text()
        if key in seen:
            raise Refused(f"the key {key[:100]!r} stands in it twice")
        seen.add(key)
        yield key, _value(reader, reader.number("I"), 0)


def _value(reader: _Reader, kind: int, depth: int) -> Any:
    """A number or a string; None for an array, which is skipped."""
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind])
    if kind == _STRING:
        return reader.take(reader.count(1)).decode("utf-8", "replace")
    if kind != _ARRAY or depth == DEPTH:
        raise Refused(f"a value of type {kind} at byte {reader.place:,} is not known")
    inner = reader.number("I")
    if inner in _SCALARS:
        width = struct.calcsize("<" + _SCALARS[inner])
        reader.take(reader.count(width) * width)
    elif inner == _STRING:
        reader.skip_texts(reader.count(8))
    else:
        for _ in range(reader.count(12)):
            _value(reader, inner, depth + 1)
    return None


def _tensor(reader: _Reader, types: Mapping[int, tuple[str, int, int]]) -> Placed:
    name, dimensions = reader.text(), reader.number("I")
    if dimensions > DIMENSIONS:
        raise Refused(f"{name[:100]!r} has {dimensions:,} dimensions, and {DIMENSIONS} are the most")
    shape = tuple(reader.number("Q") for _ in range(dimensions))
    kind, begin = reader.number("I"), reader.number("Q")
    if kind not in types:
        raise Refused(
            f"{name[:100]!r} has the type {kind}, which this version of the package gguf does not know"
        )
    code, block, nbytes = types[kind]
    numel = prod(shape)
    if (shape[0] if shape else 1) % block:
        raise Refused(f"a row of {name[:100]!r} has {shape[0]:,} elements, and {code} packs {block} together")
    entry = StateEntry(
        name=name,
        kind="tensor",
        shape=shape[::-1],
        dtype=_DTYPES.get(code, code),
        numel=numel,
        nbytes=numel // block * nbytes,
        trainable=False,
        persistent=True,
        device="meta",
    )
    return Placed(entry, begin, begin + entry.nbytes)


_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
}  # fmt: skip
"""GGUF's names of the types that torch has."""


def _check_data(reader: _Reader, placed: list[Placed], alignment: Any) -> None:
    """Names once each, and data within the file, no two of them in one place."""
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise Refused(f"its alignment {alignment!r} is no power of two")
    start, end = -(-reader.place // alignment) * alignment, 0
    names = set[str]()
    for tensor in sorted(placed, key=lambda tensor: (tensor.begin, tensor.end)):
        name = tensor.entry.name
        if name in names:
            raise Refused(f"{name[:100]!r} stands in it twice")
        names.add(name)
        if tensor.begin < end:
            raise Refused(f"{name[:100]!r} overlaps another tensor")
        end = tensor.end
    if placed and start + end > reader.size:
        raise Refused(f"its tensors end at byte {start + end:,}, beyond its {reader.size:,}")
