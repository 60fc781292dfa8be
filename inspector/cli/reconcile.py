"""Run other counters on the same model and explain every difference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from inspector.cli.choices import Counted, listed, several
from inspector.cli.command import command
from inspector.core.spec import library


def counting(keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """What the processes of the counters import."""
    own = {"torchvision": "inspector.models.torchvision:imported"}  # without torch's compiler
    return ("inspector.counters.isolate", *(own.get(name, name) for name in library(keywords["model"])))


@command("counters.report:reconcile", "model inputs call model_args phase seed", early=counting)
def reconcile(
    counters: Annotated[
        Optional[list[str]],
        several(Counted, "--counter", f"Some of {listed(Counted)}; repeatable. Default: all."),
    ] = None,
    table: Annotated[
        Optional[Path], typer.Option(help="CSV of published figures: model,input,macs,params.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that each counter may take.")] = 600.0,
) -> None:
    """Why do the counters disagree? Run thop, fvcore, torch and others, and explain every difference."""
