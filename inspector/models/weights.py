"""The values of checkpoints: read them, load them into a model, save them with a manifest."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from inspector.core.errors import InspectError, first_line
from inspector.core.files import write_whole
from inspector.models import checkpoint, header
from inspector.tracing import _torch
from inspector.tracing.storage import memory_id

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
SAVE_SUFFIXES = (*TORCH_SUFFIXES, ".safetensors")
NESTS = ("state_dict", "model_state_dict", "model", "module")
"""Under which key training scripts put the state_dict beside optimizer, epoch and the like."""
SHOWN = 3
"""How many wrong keys an error names."""


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint by its dotted path, on the CPU; tied names give one tensor.

    Nested dicts and lists become path segments ("state_dict.fc.weight", "optimizer.state.0.exp_avg").
    Raises InspectError for a file that is missing, empty, damaged, or needs code to run.
    """
    tensors = dict(checkpoint.named_tensors(_content(path)))
    if not tensors:
        raise InspectError("the checkpoint holds no tensors", "save model.state_dict()")
    return tensors


def load_into(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into `model`: every key of it, and nothing else.

    The usual nesting (`NESTS`) is unwrapped, and the prefixes of DataParallel (leading `module.`) and
    torch.compile (`_orig_mod.` anywhere) are ignored in the file and in the model. Values keep
    the device and dtype of the model, as with load_state_dict: a bfloat16 file is widened into a
    float32 model, a float32 file rounded into a bfloat16 one. Values are not checked: NaN loads as NaN.

    Raises InspectError for a missing, unexpected or wrongly shaped key; the model is then untouched.
    """
    own = model.state_dict()
    if any(_is_meta(value) for value in own.values()):
        raise InspectError("the model is on meta: it has no memory to load into", "build it on the cpu")
    state = _matched(_unwrapped(_content(path)), own)
    _check(path, state, own)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:  # a hook of the model refused what fits by name and shape
        raise InspectError(f"{path} does not load: {first_line(error)}", "see `error.__cause__`") from error


def save_state(model: nn.Module, path: str | Path, manifest: dict[str, Any]) -> list[Path]:
    """Write the state_dict to `path` and `manifest` to `path`.json, each whole or not at all.

    .pth, .pt, .bin and .ckpt are files of torch.save that `load_state_dict(torch.load(path))` accepts;
    .safetensors holds a tied tensor once under each of its names. Everything is saved from the CPU.
    The manifest gains `file`, `sha256` (of the weights file) and `format`. Existing files are replaced.

    Raises InspectError for another suffix, a folder that is missing or not writable, a model on meta, and
    state that the format cannot hold.
    """
    check_save(path)
    target = Path(path).expanduser()
    state = _on_cpu(model.state_dict())
    safe = header.is_safetensors(target)
    data = _safetensors_bytes(state) if safe else _torch_bytes(state)
    described = {
        **manifest,
        "file": target.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "format": "safetensors" if safe else "torch.save of a state_dict",
    }
    text = json.dumps(described, indent=1, default=str) + "\n"  # before the first byte is written
    return [write_whole(target, data), write_whole(manifest_path(target), text)]


def manifest_path(path: str | Path) -> Path:
    """Where `save_state` describes the file at `path`: `model.pth.json` beside `model.pth`."""
    target = Path(path).expanduser()
    return target.with_name(f"{target.name}.json")


def check_save(path: str | Path) -> None:
    """Refuse a wrong suffix or an unwritable path before the work, not after it. Raises InspectError."""
    target = Path(path).expanduser()
    if target.suffix.lower() not in SAVE_SUFFIXES:
        raise InspectError(
            f"cannot save weights as {target.name}", f"use one of the suffixes {', '.join(SAVE_SUFFIXES)}"
        )
    folder = target.resolve().parent
    taken = target.is_dir() or manifest_path(target).is_dir()
    if taken or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InspectError(
            f"cannot write {target}", "choose a file in an existing folder that you may write to"
        )


def _content(path: str | Path) -> Any:
    """What a checkpoint holds, with values on the CPU."""
    with header.readable(path) as file:
        if not header.is_safetensors(file):
            return checkpoint.load(file, values=True)
        header.header(file)  # safetensors itself accepts some contradictory files
        return _safetensors_content(file)


def _safetensors_content(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise header.damaged(file, error) from error


def _unwrapped(content: Any) -> Any:
    """The state_dict inside the dict that a training script saved."""
    while isinstance(content, Mapping):
        nest = next((key for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            return content
        content = content[nest]
    return content


def _matched(content: Any, own: Mapping[str, Any]) -> Any:
    """The checkpoint under the model's own names, where the two differ only by marks of wrappers."""
    if isinstance(content, Mapping) and set(content) == set(own):
        return content  # with its _metadata, which tells load hooks the version
    state: dict[str, Any] = dict(checkpoint.named_tensors(content))
    if isinstance(content, Mapping):
        state |= {key: value for key, value in content.items() if _is_extra(key)}
    theirs, ours = _bare_names(state), _bare_names(own)
    names = {bare: name for name, bare in ours.items()}
    if len(names) < len(ours) or len(set(theirs.values())) < len(theirs):
        return state  # the marks tell names apart here: they are no marks
    return OrderedDict((names.get(bare, bare), state[name]) for name, bare in theirs.items())


def _bare_names(names: Iterable[str]) -> dict[str, str]:
    return {name: _bare(name) for name in names}


def _bare(name: str) -> str:
    """A name without the marks of torch.compile and DataParallel."""
    parts = [part for part in name.split(".") if part != _torch.COMPILED]
    while len(parts) > 1 and parts[0] == "module":
        parts = parts[1:]
    return ".".join(parts)


def _is_extra(key: Any) -> bool:
    """Whether a key is a module's `get_extra_state`, which may be anything."""
    return isinstance(key, str) and key.rpartition(".")[2] == _torch.EXTRA_STATE


def _check(path: str | Path, state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raise InspectError where names or shapes of the file differ from the model's."""
    wrong = [name for name in own if name in state and not _fits(state[name], own[name])]
    shapes = [f"{name} {_shape(state[name])} instead of {_shape(own[name])}" for name in wrong]
    problems = [
        _some("missing", [name for name in own if name not in state]),
        _some("unexpected", [name for name in state if name not in own]),
        _some("wrongly shaped", shapes),
    ]
    if any(problems):
        raise InspectError(
            f"{path} does not fit the model: {'; '.join(filter(None, problems))}",
            "build the model with the arguments it was saved with; see its tensors with inspect params FILE",
        )


def _fits(value: Any, own: Any) -> bool:
    if not isinstance(own, Tensor) or is_lazy(own):
        return True  # extra state, or a lazy tensor that takes any shape
    return isinstance(value, Tensor) and value.shape == own.shape


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _some(kind: str, names: list[str]) -> str:
    """ "2 missing (a, b)"; at most SHOWN names."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{more})" if names else ""


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and not is_lazy(value) and value.device.type == "meta"


def _on_cpu(state: Mapping[str, Any]) -> Any:
    """The state on the CPU, ties kept. Raises InspectError where there are no values."""
    if any(_is_meta(value) or is_lazy(value) for value in state.values()):
        raise InspectError("the model has tensors without values (meta or lazy)", "build it on the cpu")
    moved: dict[tuple[Any, ...], Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.device.type != "cpu":
            layout = value.data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype
            key = layout if value.numel() else (name,)
            moved.setdefault(key, value.detach().cpu())
            state[name] = moved[key]  # type: ignore[index]
    return state


def _torch_bytes(state: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    try:
        torch.save(state, stream)
        if not all(isinstance(value, Tensor) for value in state.values()):
            torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
    except Exception as error:  # pickle raises whatever an object's own code raises
        extras = [name for name, value in state.items() if not isinstance(value, Tensor)]
        raise InspectError(
            f"the state cannot be saved as plain data: {first_line(error)}",
            f"let get_extra_state return tensors, numbers and strings: {', '.join(extras[:SHOWN])}",
        ) from error
    return stream.getvalue()


def _safetensors_bytes(state: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    extras = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if extras:
        raise InspectError(
            f"safetensors holds tensors only, not {', '.join(extras[:SHOWN])}", "save to a .pth file"
        )
    seen: set[int] = set()
    try:
        return save({name: _alone(value, seen) for name, value in state.items()}, {"format": "pt"})
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:  # sparse, quantized
        raise InspectError(
            f"safetensors cannot hold this: {first_line(error)}", "save to a .pth file"
        ) from error


def _alone(tensor: Tensor, seen: set[int]) -> Tensor:
    """The tensor contiguous, and copied where its storage was seen before: the format has no ties."""
    data = tensor.detach().contiguous()
    storage = memory_id(data)
    whole = storage not in seen and data.untyped_storage().nbytes() == data.numel() * data.element_size()
    seen.add(storage)
    return data if whole else data.clone()
