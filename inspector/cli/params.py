"""List every parameter and buffer of a model or a checkpoint file, with totals."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli import options


def params(
    model: options.Model = None,
    top: Annotated[Optional[int], typer.Option(min=1, help="Show only the largest N tensors.")] = None,
    model_arg: options.ModelArg = None,
    format: options.Format = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """List every parameter and buffer of a model, or of a .pth or .safetensors file, with totals."""
    options.check_output(format, output)
    chosen = options.settings(config, set, verbose, model=model, model_args=model_arg)
    from inspector.profiling.params import params as make

    with options.foreign_output():
        result = make(chosen.model, model_args=chosen.model_args, top=top)
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)
