"""A regression table: one row of exact numbers a model, the baseline of `inspect diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from inspector.cli import options
from inspector.cli.progress import progress


def table(
    models: Annotated[
        Optional[list[str]],
        typer.Argument(help="Specs, globs ('resnet*', 'timm:vit*'), or YAML files with a list of models."),
    ] = None,
    all: Annotated[
        Optional[str], typer.Option("--all", help="Every model of torchvision or of timm.")
    ] = None,
    measure: Annotated[
        Optional[str], typer.Option(help="Also measure latency, memory or both (separated by commas).")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of --measure latency, models in turn.")] = 30,
    append: Annotated[
        bool,
        typer.Option(
            "--append", help="Keep the rounds that OUTPUT has: two checkouts, a round each in turn."
        ),
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that count.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a sweep to the same OUTPUT was cut off.")
    ] = False,
    input: options.Input = None,
    phase: options.Phase = "forward",
    model_arg: options.ModelArg = None,
    device: options.Device = None,
    seed: options.Seed = None,
    format: options.Format = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """List exact numbers of many models, one row each: a baseline that CI holds changes against.

    A model that fails is a row with its error, and exit code 1.
    """
    options.check_output(format, output)
    chosen = options.settings(config, set, verbose, model_args=model_arg, inputs=input, seed=seed)
    journal = _journal(output, resume)
    earlier = _earlier(output, format) if append else None
    from inspector.regress.sweep.table import table as make

    with options.foreign_output(), progress() as tell:
        result = make(
            models or ([] if all else [chosen.model]),
            every=all,
            inputs=chosen.inputs,
            model_args=chosen.model_args,
            phase=phase,
            device=device,
            seed=chosen.seed,
            jobs=jobs,
            measure=[word.strip() for word in measure.split(",")] if measure else [],
            rounds=rounds,
            add_to=earlier,
            journal=journal,
            resume=resume,
            tell=tell,
        )
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)


def _journal(output: Path | None, resume: bool) -> Path | None:
    """Where a sweep that is cut off leaves what it knows."""
    from inspector.core.errors import InspectError

    if output is None and resume:
        raise InspectError("--resume needs the sweep's --output FILE", "name the file of the sweep")
    return output.with_name(f".{output.name}.journal") if output is not None else None


def _earlier(output: Path | None, format: str | None) -> Any:
    """The table that --append adds to, if it is there already."""
    from inspector.core.errors import InspectError
    from inspector.reporting.report import Report

    if output is None or (format or "json") != "json" or output.suffix != ".json":
        raise InspectError("--append needs an --output FILE.json", "say where the rounds are kept")
    return Report.read(output) if output.is_file() else None
