"""Run other counters on the same model and explain every difference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli import options


def reconcile(
    model: options.Model = None,
    input: options.Input = None,
    phase: options.Phase = "forward",
    counter: Annotated[
        Optional[list[str]],
        typer.Option(help="thop, fvcore, torch, ... or published; repeatable. Default: all."),
    ] = None,
    table: Annotated[
        Optional[Path], typer.Option(help="CSV of published figures: model,input,macs,params.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that each counter may take.")] = 600.0,
    model_arg: options.ModelArg = None,
    seed: options.Seed = None,
    format: options.Format = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Why do the counters disagree? Run thop, fvcore, torch and others, and explain every difference."""
    options.check_output(format, output)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    from inspector.counters.report import reconcile as make

    with options.foreign_output():
        result = make(
            chosen.model,
            chosen.inputs,
            counters=counter,
            table=table,
            phase=phase,
            seed=chosen.seed,
            model_args=chosen.model_args,
            timeout=timeout,
        )
    options.emit(result, format, output)
