"""One page about a model: numbers, module tree, operators, memory, stages, and other commands' reports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli import options


def report(
    model: options.Model = None,
    time: Annotated[
        Optional[str], typer.Option(help="Also measure each module's time here, on cpu or cuda.")
    ] = None,
    added: Annotated[
        Optional[list[Path]],
        typer.Option("--with", help="Add the JSON report of another command; repeatable."),
    ] = None,
    phase: options.Phase = "forward",
    stage: options.StageMap = None,
    input: options.Input = None,
    model_arg: options.ModelArg = None,
    device: options.Device = None,
    seed: options.Seed = None,
    format: Annotated[
        Optional[str], typer.Option("--format", help="html (default), json, markdown, table or csv.")
    ] = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """One page about a model that opens without a network: numbers, module tree, operators, memory, stages.

    Write it with -o report.html. It also holds the whole report as JSON.
    """
    if format is None and output is None:
        _refuse_terminal()
        format = "html"
    options.check_output(format, output)
    from inspector.reporting.report import Report

    given = options.stage_map(stage)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    reports = [Report.read(file) for file in added or ()]
    from inspector.pages.report import page

    with options.partial_report(format, output), options.foreign_output():
        result = page(
            chosen.model,
            chosen.inputs,
            phase=phase,
            device=device,
            seed=chosen.seed,
            model_args=chosen.model_args,
            stages=given,
            time=time,
            added=reports,
        )
    options.emit(result, format, output)


def _refuse_terminal() -> None:
    from inspector.core.errors import InspectError

    if sys.stdout.isatty():
        raise InspectError("a page is no text for a terminal", "write it to a file: -o report.html")
