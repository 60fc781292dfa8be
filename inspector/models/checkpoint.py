"""Checkpoint files: names, shapes and dtypes of their tensors, without loading the values."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from inspector.errors import InspectError
from inspector.models.inputs import first_line
from inspector.trace.record import StateEntry

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
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

    `.safetensors` is read by its header alone; all else goes through
    `torch.load(weights_only=True)` onto the meta device. Raises InspectError for a file that is
    missing, empty, truncated, or needs code to run.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise InspectError(f"no file at {path}", "name a .pth, .pt, .bin, .ckpt or .safetensors file")
    try:
        if file.stat().st_size == 0:
            raise InspectError(f"{path} is empty", "save or download it again")
        if file.suffix.lower() == ".safetensors":
            return _safetensors(file)
        return _entries(_load(file))
    except PermissionError as error:
        raise InspectError(f"cannot read {path}: permission denied", "check its mode") from error


def _load(file: Path) -> Any:
    try:
        return torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        text = str(error)
        if "Weights only load failed" in text and ("Unsupported" in text or "GLOBAL" in text):
            raise InspectError(
                f"{file} holds pickled Python objects and would have to run code to load",
                "save model.state_dict() instead of the model, with torch.save",
            ) from error
        raise InspectError(f"{file} is not a checkpoint: {_brief(error)}", _TRUNCATED) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, AttributeError) as error:
        raise InspectError(
            f"{file} is damaged or truncated: {_brief(error)}", _TRUNCATED
        ) from error


_TRUNCATED = "save or download it again"


def _brief(error: Exception) -> str:
    return first_line(error)[:120]


def _entries(content: Any) -> tuple[StateEntry, ...]:
    found: dict[Any, list[tuple[str, torch.Tensor]]] = {}
    for name, tensor in _tensors(content, ""):
        storage = None
        try:
            storage = tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.numel()
        except (NotImplementedError, RuntimeError):
            pass
        found.setdefault(storage or id(tensor), []).append((name, tensor))
    if not found:
        raise InspectError("the checkpoint holds no tensors", "save model.state_dict()")
    return tuple(_entry(group) for group in found.values())


def _tensors(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a nested checkpoint with its dotted path."""
    prefix = f"{path}." if path else ""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors(entry, f"{prefix}{key}")
    elif isinstance(value, (list, tuple)):
        for position, entry in enumerate(value):
            yield from _tensors(entry, f"{prefix}{position}")


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


def _safetensors(file: Path) -> tuple[StateEntry, ...]:
    """Eight bytes of length, a JSON header, then the data at the offsets that it names."""
    size = file.stat().st_size
    damaged = InspectError(f"{file} is damaged or truncated", _TRUNCATED)
    with file.open("rb") as stream:
        start = stream.read(8)
        if len(start) < 8 or struct.unpack("<Q", start)[0] > size - 8:
            raise damaged
        (length,) = struct.unpack("<Q", start)
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            entries = tuple(_safetensor(name, fields) for name, fields in header.items())
            end = max((fields["data_offsets"][1] for fields in header.values()), default=0)
        except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
            raise damaged from error
    if 8 + length + end > size:
        raise damaged
    if not entries:
        raise InspectError("the checkpoint holds no tensors", "save model.state_dict()")
    return entries


def _safetensor(name: str, fields: dict[str, Any]) -> StateEntry:
    shape = tuple(int(length) for length in fields["shape"])
    begin, end = fields["data_offsets"]
    numel = 1
    for length in shape:
        numel *= length
    dtype = _DTYPES.get(fields["dtype"])
    return StateEntry(
        name=name,
        kind="tensor",
        shape=shape,
        dtype=str(dtype).removeprefix("torch.") if dtype else fields["dtype"],
        numel=numel,
        nbytes=end - begin,
        trainable=False,
        persistent=True,
        device="meta",
    )
