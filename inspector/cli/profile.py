"""Count parameters, MACs, FLOPs, activations and bytes of a model, module by module."""

from __future__ import annotations

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
    roofline: Annotated[
        Optional[str],
        typer.Option(
            metavar="DEVICE", help="Add the least time on this device: h100, a100, l4, t4, cpu, ..."
        ),
    ] = None,
    device_file: Annotated[
        Optional[Path], typer.Option(help="YAML of a device: name, peaks in TFLOP/s, bandwidth in GB/s.")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Roofline: float32 products run in TF32.")] = False,
    amp: Annotated[bool, typer.Option("--amp", help="Roofline: autocast to bfloat16.")] = False,
    dtype: Annotated[Optional[str], typer.Option(help="Roofline: dtype of weights and inputs.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Roofline: also time each module on the device at hand.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Reuse the trace of an earlier run (torchvision, timm)."),
    ] = True,
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
    from inspector.profiling.profile import profile as run

    with options.partial_report(format, output), options.foreign_output():
        result = run(
            chosen.model,
            chosen.inputs,
            phase=phase,
            device=device,
            seed=chosen.seed,
            model_args=chosen.model_args,
            by=by,
            depth=depth,
            top=top,
            strict=strict,
            counter=counter,
            roofline=roofline,
            device_file=device_file,
            tf32=tf32,
            amp=amp,
            dtype=dtype,
            measure=measure,
            cache=cache,
            save_trace=save_trace,
        )
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)
