"""Checkpoint files: names, shapes and dtypes of their tensors, without loading the values."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch

from inspector.core.errors import InspectError
from inspector.models.inputs import first_line
from inspector.tracing.record import StateEntry

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pth.tar")
LONGEST_HEADER = 100_000_000
"""What the safetensors format itself allows."""
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64, "C64": torch.complex64,
}  # fmt: skip


def is_checkpoint(spec: str) -> bool:
    return spec.lower().endswith(SUFFIXES)


def read(path: str | Path) -> tuple[StateEntry, ...]:
    """The tensors of a checkpoint, kind "tensor": a file does not say which are parameters.

    `.safetensors` is read by its header alone; all else goes through `torch.load(weights_only=True)`,
    which maps the file into memory and reads no values (the format before torch 1.6 must be read
    whole). Raises InspectError for a file that is
    missing, empty, truncated, or needs code to run.
    """
    with readable(path) as file:
        return header(file) if is_safetensors(file) else _entries(load(file))


def is_safetensors(file: Path) -> bool:
    return file.suffix.lower() == ".safetensors"


@contextmanager
def readable(path: str | Path) -> Iterator[Path]:
    """The file at `path`. Raises InspectError where it is missing, empty or not ours to read."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise InspectError(f"no file at {path}", "name a .pth, .pt, .bin, .ckpt or .safetensors file")
    try:
        if file.stat().st_size == 0:
            raise InspectError(f"{path} is empty", "save or download it again")
        yield file
    except PermissionError as error:
        raise InspectError(f"cannot read {path}: permission denied", "check its mode") from error


def load(file: Path, values: bool = False) -> Any:
    """What a file of `torch.save` holds: with `values` read onto the CPU, without them only described.

    Raises InspectError for a file that is damaged or needs code to run.
    """
    try:
        options: Any = {"map_location": "cpu" if values else "meta"}
        if not values and zipfile.is_zipfile(
            file
        ):  # on the CPU: torch 2.8 forgets on meta what shares a storage
            options = {"map_location": "cpu", "mmap": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, weights_only=True, **options)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in ("GLOBAL", "add_safe_globals")):
            raise InspectError(
                f"{file} holds pickled Python objects and would have to run code to load",
                "save model.state_dict() instead of the model, with torch.save",
            ) from error
        raise InspectError(f"{file} is not a checkpoint of torch.save", _TRUNCATED) from error
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        if "TorchScript" in str(error):
            raise InspectError(
                f"{file} is a TorchScript archive: a program, not a checkpoint",
                "save the state_dict() of torch.jit.load(file) with torch.save",
            ) from error
        raise damaged(file, error) from error


_TRUNCATED = "save or download it again"


def damaged(file: Path, error: Exception | None = None) -> InspectError:
    """The error for a file whose content contradicts itself."""
    why = f": {_brief(error)}" if error else ""
    return InspectError(f"{file} is damaged or truncated{why}", _TRUNCATED)


def _brief(error: Exception) -> str:
    name, said = type(error).__name__, first_line(error)
    return name if isinstance(error, LookupError) or said == name else f"{name}: {said[:120]}"


def _entries(content: Any) -> tuple[StateEntry, ...]:
    found: dict[Any, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in named_tensors(content):
        storage = None
        try:
            storage = tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.numel()
        except (NotImplementedError, RuntimeError):
            pass
        found.setdefault(storage or id(tensor), []).append((name, tensor))
    if not found:
        raise InspectError("the checkpoint holds no tensors", "save model.state_dict()")
    return tuple(_entry(group) for group in found.values())


def named_tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a nested checkpoint with its dotted path."""
    prefix = f"{path}." if path else ""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from named_tensors(entry, f"{prefix}{key}")
    elif isinstance(value, (list, tuple)):
        for position, entry in enumerate(value):
            yield from named_tensors(entry, f"{prefix}{position}")


def _entry(group: list[tuple[str, torch.Tensor]]) -> StateEntry:
    name, tensor = group[0]
    return StateEntry(
        name=name,
        kind="tensor",
        shape=tuple(tensor.shape),
        dtype=str(tensor.dtype).removeprefix("torch."),
        numel=tensor.numel(),
        nbytes=tensor.numel() * tensor.element_size(),
        trainable=False,
        persistent=True,
        aliases=tuple(alias for alias, _ in group[1:]),
        device="meta",
    )


def header(file: Path) -> tuple[StateEntry, ...]:
    """A safetensors file: eight bytes of length, a JSON header, then the data at the offsets that it
    names. Raises InspectError where they contradict."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, LONGEST_HEADER):
            raise damaged(file)
        try:
            content = json.loads(stream.read(length))
            content.pop("__metadata__", None)
            entries = tuple(_safetensor(name, fields) for name, fields in content.items())
            end = max((fields["data_offsets"][1] for fields in content.values()), default=0)
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
            raise damaged(file) from error
    if 8 + length + end > size:
        raise damaged(file)
    if not entries:
        raise InspectError("the checkpoint holds no tensors", "save model.state_dict()")
    return entries


def _safetensor(name: str, fields: dict[str, Any]) -> StateEntry:
    """One entry of the header. Raises ValueError where shape, dtype and offsets contradict."""
    shape = tuple(int(length) for length in fields["shape"])
    begin, end = fields["data_offsets"]
    numel = prod(shape)
    code = fields["dtype"]
    dtype = _DTYPES.get(code)
    if not isinstance(code, str) or min(shape, default=0) < 0 or not 0 <= begin <= end:
        raise ValueError(name)
    if dtype is not None and end - begin != numel * dtype.itemsize:
        raise ValueError(name)
    return StateEntry(
        name=name,
        kind="tensor",
        shape=shape,
        dtype=str(dtype).removeprefix("torch.") if dtype else code,
        numel=numel,
        nbytes=end - begin,
        trainable=False,
        persistent=True,
        device="meta",
    )
