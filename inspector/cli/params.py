"""List every parameter and buffer of a model or a checkpoint file, with totals."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli.command import command


@command("profiling.params:params", "model model_args")
def params(
    top: Annotated[Optional[int], typer.Option(min=1, help="Show only the largest N tensors.")] = None,
) -> None:
    """List every parameter and buffer of a model, or of a .pth or .safetensors file, with totals."""
