"""A regression table: one row of exact numbers a model, the baseline of `inspect diff`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer

from inspector.cli.choices import Engine, Measured, Source, several
from inspector.cli.command import command
from inspector.cli.completion import model_names
from inspector.cli.options import Setting
from inspector.core.errors import InspectError


def _appended(values: Mapping[str, Any]) -> None:
    if values["append"] and (values["format"] or "json") != "json":
        raise InspectError("--append needs an --output FILE.json", "say where the rounds are kept")


@command("regress.sweep.table:table", "inputs call model_args phase device seed", before=_appended)
def table(
    models: Annotated[
        Optional[list[str]],
        typer.Argument(
            help="Specs, globs ('resnet*', 'timm:vit*'), or YAML files with a list of models.",
            autocompletion=model_names,
        ),
        Setting("MODEL.NAME", lambda texts, held: texts or [held], unless=("all",)),
    ] = None,
    all: Annotated[Optional[Source], typer.Option("--all", help="Every model of this source.")] = None,
    measure: Annotated[
        Optional[str],
        several(Measured, "--measure", help="Also measure latency, memory or both (separated by commas)."),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds of --measure latency, the models interleaved.")
    ] = 30,
    append: Annotated[
        bool,
        typer.Option("--append", help="Add to the rounds in OUTPUT, e.g. of two checkouts that take turns."),
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Worker processes.")] = 1,
    engine: Annotated[
        Optional[Engine], typer.Option(help="Count on the workers of an existing cluster (see --address).")
    ] = None,
    address: Annotated[
        Optional[str], typer.Option(help="Of the cluster: HOST:PORT (Ray; or auto), tcp://HOST:PORT (Dask).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted sweep to the same OUTPUT.")
    ] = False,
) -> None:
    """List exact numbers of many models, one row each: a baseline for CI to compare changes with.

    A model that fails is a row with its error, and exit code 1.
    """
