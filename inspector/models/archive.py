"""Zip archives of torch.save, torch.export and torch.jit: what they declare, held against the file's own size
before anything is read."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from inspector.core.errors import InspectError, first_line
from inspector.reporting.numbers import size

INFLATED = 2**26
"""Bytes that the compressed entries of an archive may declare in all: torch.save compresses nothing,
torch.jit only source text."""
MARKS = 10_000
"""How many tuples, lists and dicts of a pickle may be open at once."""
_SAVE_AGAIN = "download it again, or save it again with torch.save: it compresses nothing"


def check(file: Path) -> None:
    """Raise InspectError where the entries declare more bytes than the file can hold: it would inflate, or
    its entries overlap. A file that is no archive passes."""
    entries = _entries(file)
    inflated = sum(entry.file_size for entry in entries if entry.compress_type != zipfile.ZIP_STORED)
    stored = sum(max(entry.file_size, entry.compress_size) for entry in entries) - inflated
    if inflated > INFLATED or stored > file.stat().st_size:
        declared = size(sum(entry.file_size for entry in entries))
        raise InspectError(f"{file} declares {declared} and has {size(file.stat().st_size)}", _SAVE_AGAIN)


def check_storages(file: Path) -> None:
    """Raise InspectError where a storage of a torch.save archive declares another size than its record has
    (torch before 2.9 reads on beyond the record), or where the pickle asks for memory by a number. Runs
    nothing of the file. A file that is no archive passes."""
    entries = {entry.filename.partition("/")[2]: entry for entry in _entries(file)}
    if "data.pkl" not in entries:
        return
    with zipfile.ZipFile(file) as archive, archive.open(entries["data.pkl"]) as stream:
        declared = _Declared(stream)
        try:
            declared.load()
        except _Refused as error:
            raise InspectError(f"{file} is damaged: {error}", _SAVE_AGAIN) from error
    for key, nbytes in declared.storages.items():
        entry = entries.get(f"data/{key}")
        if entry is not None and entry.file_size != nbytes:
            message = f"storage {key} declares {nbytes:,} bytes, and its record has {entry.file_size:,}"
            raise InspectError(f"{file} is damaged: {message}", _SAVE_AGAIN)


def _entries(file: Path) -> list[zipfile.ZipInfo]:
    try:
        if not zipfile.is_zipfile(file):
            return []
        with zipfile.ZipFile(file) as archive:
            return archive.infolist()
    except PermissionError:
        raise
    except Exception as error:  # a damaged directory may raise anything
        raise InspectError(f"{file} is damaged: {first_line(error)}", _SAVE_AGAIN) from error


class _Refused(Exception):
    """The pickle asks for what no checkpoint needs."""


class _Inert:
    """What stands for every class and function of a pickle: it takes everything and does nothing."""

    path = ""

    def __new__(cls, *args: Any, **_: Any) -> Any:
        if cls.path in _SIZED and any(type(arg) is int and arg > INFLATED for arg in args):
            raise _Refused(f"it calls {cls.path}({args[0]})")
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        pass

    extend = update = add = append


_SIZED = (
    "builtins.bytearray",
    "__builtin__.bytearray",
    *(f"torch.{kind}" for kind in vars(torch) if kind.endswith("Tensor")),
)
"""Callables that weights_only allows and that a single number makes allocate."""


_Unpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Declared(_Unpickler):  # type: ignore[misc]
    """Reads a pickle for the sizes of its storages alone. In Python, because the memo of the one in C grows
    to whatever index a pickle names."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="utf-8")
        self.storages: dict[str, int] = {}

    def load_mark(self) -> None:
        super().load_mark()
        if len(self.metastack) > MARKS:
            raise _Refused(f"it nests more than {MARKS:,} deep")

    dispatch = {**_Unpickler.dispatch, pickle.MARK[0]: load_mark}

    def find_class(self, module: str, name: str) -> type[_Inert]:
        return type(name.rpartition(".")[2] or "_", (_Inert,), {"path": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        match pid:
            case ("storage", kind, str(key), _, int(numel)):
                nbytes = numel * _itemsize(getattr(kind, "__name__", ""))
                if self.storages.setdefault(key, nbytes) != nbytes:
                    raise _Refused(f"storage {key} declares {self.storages[key]:,} and {nbytes:,} bytes")
        return _Inert()


def _itemsize(storage: str) -> int:
    """Bytes of an element of torch.FloatStorage and its like; an untyped storage counts bytes."""
    held = getattr(torch, storage, None) if storage.endswith("Storage") else None
    return getattr(held, "dtype", torch.uint8).itemsize
