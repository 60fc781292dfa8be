"""`inspect params`: the tensors of a checkpoint's file, which need no torch, or the state of a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.core.errors import InspectError
from inspector.core.trust import TRUST
from inspector.profiling import files
from inspector.reporting.report import Report

if TYPE_CHECKING:
    from torch import nn

    from inspector.models import Recipe


def params(
    model: str | Path | nn.Module | Recipe,
    *,
    model_args: Mapping[str, Any] | None = None,
    top: int | None = None,
) -> Report:
    """Count and list the parameters and buffers of `model`: a spec, an nn.Module, or a checkpoint
    file (.pth, .pt, .bin, .ckpt, .safetensors, .gguf). Nothing runs, and no values are loaded.

    Of a model on the hub (`hf:ORG/NAME`, without further `model_args`) the tensors of its safetensors or GGUF
    files are listed: their headers are read, and nothing else of them. `top` limits the printed ledger; the
    table is whole.
    """
    if isinstance(model, Path) or (isinstance(model, str) and files.is_file(model)):
        if model_args:
            word = "trust_remote_code=True" if set(model_args) == {TRUST} else "model_args="
            raise InspectError(f"a checkpoint takes no `{word}`", "leave it out")
        return files.of_file(Path(model), top)
    if isinstance(model, str) and (place := files.on_the_hub(model, model_args or {})) is not None:
        if (listed := files.of_hub(place, model_args or {}, top)) is not None:
            return listed
    from inspector.profiling.state import of_model

    return of_model(model, model_args, top)
