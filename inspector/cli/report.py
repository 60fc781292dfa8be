"""One page about a model: numbers, module tree, operators, memory, stages, and other commands' reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli.choices import Format
from inspector.cli.command import command
from inspector.cli.options import Stages


@command("pages.report:page", "model inputs call model_args phase device seed", form="html")
def report(
    time: Annotated[
        Optional[str], typer.Option(help="Also measure each module's time here, on cpu, cuda, xpu or mps.")
    ] = None,
    added: Annotated[
        Optional[list[Path]],
        typer.Option("--with", metavar="FILE", help="Add the JSON report of another command; repeatable."),
    ] = None,
    stages: Stages = None,
    format: Annotated[Optional[Format], typer.Option(help="Default: html.")] = None,
) -> None:
    """One page about a model that opens without a network: numbers, module tree, operators, memory, stages.

    Write it with -o report.html. It also holds the whole report as JSON.
    """
