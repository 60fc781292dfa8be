"""The header of a safetensors file on this machine, without torch and without the values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

from inspector.core.errors import InspectError, first_line
from inspector.tracing.record import StateEntry

SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".pth.tar")
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "BOOL": "bool",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


TRUNCATED = "save or download it again"


def is_checkpoint(spec: str) -> bool:
    return spec.lower().endswith(SUFFIXES)


def is_safetensors(file: Path) -> bool:
    return file.suffix.lower() == ".safetensors"


@contextmanager
def readable(path: str | Path) -> Iterator[Path]:
    """The file at `path`. Raises InspectError where it is missing, empty or not readable."""
    file = Path(path).expanduser()
    try:
        if not file.is_file():
            raise InspectError(f"no file at {path}", "name a .pth, .pt, .bin, .ckpt or .safetensors file")
        if file.stat().st_size == 0:
            raise InspectError(f"{path} is empty", "save or download it again")
        file.open("rb").close()
        yield file
    except PermissionError as error:
        raise InspectError(f"cannot read {path}: permission denied", "check its mode") from error
    except OSError as error:
        raise InspectError(f"cannot read {path}: {error.strerror or error}", "name another file") from error


def damaged(file: Path, error: Exception | None = None) -> InspectError:
    """The error for a file whose content contradicts itself."""
    why = f": {_brief(error)}" if error else ""
    return InspectError(f"{file} is damaged or truncated{why}", TRUNCATED)


def _brief(error: Exception) -> str:
    name, message = type(error).__name__, first_line(error)
    if "weights_only" in message:  # torch's advice to run what is in the file
        return "it would have to run code to load"
    return name if isinstance(error, LookupError) or message == name else f"{name}: {message[:120]}"


def header(file: Path) -> tuple[StateEntry, ...]:
    """The tensors of a safetensors file, in the order of their data. Raises InspectError where header and
    data contradict, and for a dtype that the installed safetensors does not support."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as content:
            slices = {name: content.get_slice(name) for name in content.offset_keys()}
            entries = tuple(
                safetensor(name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            )
    except (SafetensorError, OSError) as error:
        raise damaged(file, error) from error
    if not entries:
        raise InspectError("the checkpoint holds no tensors", "save model.state_dict()")
    return entries


def safetensor(name: str, shape: tuple[int, ...], code: str) -> StateEntry:
    """One entry of the header; a dtype that torch does not have keeps its code, whose digits are its bits."""
    numel = prod(shape)
    return StateEntry(
        name=name,
        kind="tensor",
        shape=shape,
        dtype=_DTYPES.get(code, code),
        numel=numel,
        nbytes=numel * bits(code) // 8,
        trainable=False,
        persistent=True,
        device="meta",
    )


def bits(code: str) -> int:
    """Bits of an element: the first digits of a safetensors dtype, 8 for BOOL."""
    digits = re.search(r"\d+", code)
    return int(digits[0]) if digits else 8
