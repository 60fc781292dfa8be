"""List every parameter and buffer of a model or a checkpoint file, with totals."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli.command import command


@command("profiling.params:params", "model model_args")
def params(
    top: Annotated[Optional[int], typer.Option(min=1, help="Show only the largest N tensors.")] = None,
) -> None:
    """List every parameter and buffer of a model, or of a .pth, .safetensors or .gguf file, with totals.

    Of a model on the hub (hf:ORG/NAME) the headers of its safetensors or GGUF files are read, no weights.
    """
