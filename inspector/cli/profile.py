"""Count parameters, MACs, FLOPs, activations and bytes of a model, module by module."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli import options


def profile(
    model: options.Model = None,
    input: options.Input = None,
    phase: options.Phase = "forward",
    by: Annotated[str, typer.Option(help="Show the tree by module, or a table by type or op.")] = "module",
    depth: Annotated[int, typer.Option(min=0, help="Levels of the module tree to show.")] = 2,
    top: Annotated[Optional[int], typer.Option(min=1, help="Show only the largest N rows.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any operator has no formula.")] = False,
    model_arg: options.ModelArg = None,
    device: options.Device = None,
    counter: Annotated[
        str, typer.Option(help="Show what thop, fvcore, torch, ... counts in place of ours.")
    ] = "ours",
    seed: options.Seed = None,
    save_trace: Annotated[Optional[Path], typer.Option(help="Also save the trace as JSON.")] = None,
    format: options.Format = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Count parameters, MACs, FLOPs, activations and bytes of a model, module by module."""
    options.check_output(format, output)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    if counter != "ours":
        _refuse(counter, device=device, strict=strict, save_trace=save_trace)
        from inspector.api.counted import counted

        with options.foreign_output():
            result = counted(
                chosen.model,
                chosen.inputs,
                counter=counter,
                phase=phase,
                seed=chosen.seed,
                model_args=chosen.model_args,
                by=by,
                depth=depth,
                top=top,
            )
        options.emit(result, format, output)
        return
    from inspector.api.profile import report, trace
    from inspector.trace.capture import ForwardError

    make = partial(report, by=by, depth=depth, top=top, strict=strict)
    try:
        with options.foreign_output():
            found = trace(
                chosen.model,
                chosen.inputs,
                phase=phase,
                device=device,
                seed=chosen.seed,
                model_args=chosen.model_args,
            )
    except ForwardError as error:
        options.emit(make(error.trace), format, output)
        raise
    if save_trace is not None:
        found.save(save_trace)
    result = make(found)
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)


def _refuse(counter: str, **given: object) -> None:
    """Options that only our own pass can keep."""
    from inspector.errors import InspectError

    for name, value in given.items():
        if value:
            option = name.replace("_", "-")
            raise InspectError(
                f"--{option} is for our own count, not that of {counter}", f"leave --{option} out"
            )
