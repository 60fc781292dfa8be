"""Checkpoint files: names, shapes and dtypes of their tensors, without loading the values."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from inspector.core.errors import InspectError
from inspector.models import archive
from inspector.models.header import (
    TRUNCATED,
    damaged,
    header,
    is_safetensors,
    readable,
)
from inspector.tracing.capture.state import Named, entries_of
from inspector.tracing.record import StateEntry


def read(path: str | Path) -> tuple[StateEntry, ...]:
    """The tensors of a checkpoint, kind "tensor": a file does not say which are parameters.

    `.safetensors` is read by its header alone; all else goes through `torch.load(weights_only=True)`,
    which maps the file into memory and reads no values (the format before torch 1.6 must be read
    whole). Raises InspectError for a file that is missing, empty, truncated, or needs code to run.
    """
    with readable(path) as file:
        return header(file) if is_safetensors(file) else _entries(load(file))


def load(file: Path, values: bool = False) -> Any:
    """What a file of `torch.save` holds: with `values` read onto the CPU, without them only described.

    Raises InspectError for a file that is damaged or needs code to run.
    """
    archive.check(file)
    doubt = _doubt(file)
    try:
        content = _loaded(file, values)
    except pickle.UnpicklingError as error:
        if any(sign in str(error) for sign in ("GLOBAL", "add_safe_globals")):
            raise InspectError(
                f"{file} holds pickled Python objects and would have to run code to load",
                "save model.state_dict() instead of the model, with torch.save",
            ) from error
        raise InspectError(f"{file} is not a checkpoint of torch.save", TRUNCATED) from error
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        if "TorchScript" in str(error):
            raise InspectError(
                f"{file} is a TorchScript archive: a program, not a checkpoint",
                "save the state_dict() of torch.jit.load(file) with torch.save",
            ) from error
        raise damaged(file, error) from error
    if doubt is not None:  # torch reads what a pickle's rules forbid
        raise damaged(file, doubt) from doubt
    return content


def _doubt(file: Path) -> Exception | None:
    """What is wrong with the pickle of an archive, where torch itself must say whether it is one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # a storage with a type is deprecated, and files name nothing else
            archive.check_storages(file)
    except InspectError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        return error
    return None


def _loaded(file: Path, values: bool) -> Any:
    options: Any = {"map_location": "cpu" if values else "meta"}
    if not values and zipfile.is_zipfile(file):
        # On the CPU: on meta torch 2.8 forgets which tensors share a storage.
        options = {"map_location": "cpu", "mmap": True}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(file, weights_only=True, **options)


def _entries(content: Any) -> tuple[StateEntry, ...]:
    entries = entries_of(Named(name, "tensor", value, True) for name, value in named_tensors(content))
    if not entries:
        raise InspectError("the checkpoint holds no tensors", "save model.state_dict()")
    return tuple(replace(entry, device="meta") for entry in entries)


DEPTH = 100
"""How deep the containers of a checkpoint may nest."""
REPEATED = 500_000
"""How many entries are walked again at most: lists that hold one another ten times over, ten levels deep,
have 10**10."""


def named_tensors(value: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a nested checkpoint with its dotted path. Raises InspectError for containers that hold
    themselves, nest deeper than DEPTH, or repeat one another beyond REPEATED entries."""
    left, bare, walked = iter(range(REPEATED)), set[int](), set[int]()

    def walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield path, value
            return
        if not isinstance(value, (dict, list, tuple)) or id(value) in bare:
            return
        if depth > DEPTH:
            raise InspectError(f"the checkpoint nests more than {DEPTH} deep", "save model.state_dict()")
        prefix, empty, again = f"{path}." if path else "", True, id(value) in walked
        walked.add(id(value))
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if again and next(left, None) is None:
                raise InspectError("the checkpoint repeats itself without end", "save model.state_dict()")
            if isinstance(entry, (torch.Tensor, dict, list, tuple)):
                for named in walk(entry, f"{prefix}{key}", depth + 1):
                    empty = False
                    yield named
        if empty:
            bare.add(id(value))  # what holds no tensor is walked once, however often it stands there

    return walk(value, path, 0)
