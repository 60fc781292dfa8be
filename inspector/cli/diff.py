"""Compare a report with a baseline, and fail where something got worse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from inspector.cli.choices import State, several
from inspector.cli.command import command
from inspector.cli.completion import compared_models
from inspector.core.visible import visible

_Names = Optional[list[str]]


def _tell(report: Any) -> None:
    """What was done besides the comparison: the baseline that was written, GitHub's summary."""
    for note in report.notes():
        print(visible(note), file=sys.stderr)


@command("regress.diff:diff", "inputs model_args seed", after=_tell)
def diff(
    base: Annotated[str, typer.Argument(help="A JSON report of any command, or git:REVISION:PATH.")],
    head: Annotated[
        Optional[str],
        typer.Argument(
            help="The same, or a model's spec. Default: the models of a table, counted now.",
            autocompletion=compared_models,
        ),
    ] = None,
    tolerance: Annotated[
        _Names,
        typer.Option(
            metavar="METRIC=AMOUNT", help="Allow a metric to change: macs=1%, params=1000; repeatable."
        ),
    ] = None,
    max: Annotated[
        _Names,
        typer.Option("--max", metavar="METRIC=AMOUNT", help="A budget of HEAD: params=26M; repeatable."),
    ] = None,
    only: Annotated[
        _Names, typer.Option(metavar="GLOB", help="Compare only these metrics; repeatable.")
    ] = None,
    ignore: Annotated[
        _Names, typer.Option(metavar="GLOB", help="Leave out these metrics; repeatable.")
    ] = None,
    fail_on: Annotated[
        Optional[str],
        several(
            State,
            "--fail-on",
            help="States that fail, or none. Default: regressed,missing,invalid,incomparable.",
        ),
    ] = None,
    effect: Annotated[Optional[str], typer.Option(help="Least slowdown that fails. Default: 5%.")] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Write what changed into BASE.")
    ] = False,
    all: Annotated[
        bool, typer.Option("--all", help="Also list what is ok, and each module that changed.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Worker processes.")] = 1,
    output: Annotated[
        Optional[list[Path]],
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write to this file; its suffix chooses the format; repeatable.",
        ),
    ] = None,
) -> None:
    """Compare two reports, or a baseline with the models as they are; exit 1 where something got worse.

    With GITHUB_STEP_SUMMARY set, the comparison is also appended there.
    """
