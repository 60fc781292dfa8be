"""Freeze the first stages of a model, and verify with training steps that they stay frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from inspector.cli.choices import Counting, Norm
from inspector.cli.command import command
from inspector.cli.completion import module_names, remember
from inspector.cli.options import Setting, Stages, globs
from inspector.core.spec import library


def training(keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """What the two processes of a verification import."""
    if not (keywords.get("verify") and keywords.get("ddp")):
        return ()
    return ("inspector.freezing.ddp_worker", "torch._dynamo", *library(keywords["model"]))


@command(
    "freezing.handle:freeze_and_verify",
    "model inputs model_args weights seed",
    early=training,
    after=remember,
)
def freeze(
    at: Annotated[
        Optional[int],
        typer.Option(help="Freeze the first N stages, from the stem on; see: inspect stages."),
        Setting("FREEZE.AT"),
    ] = None,
    scheme: Annotated[
        Optional[Counting],
        typer.Option(help="Whose convention --at follows. Default: maskrcnn."),
        Setting("FREEZE.SCHEME"),
    ] = None,
    patterns: Annotated[
        Optional[list[str]],
        typer.Option(
            "--pattern",
            metavar="GLOB",
            autocompletion=module_names,
            help="Freeze the parameters that match this glob, e.g. 'layer1.*'; repeatable.",
        ),
        Setting("FREEZE.PATTERNS"),
    ] = None,
    norm: Annotated[
        Optional[Norm],
        typer.Option(
            help="Batch norm of the frozen part: freeze (weight, bias, statistics; default), eval"
            " (statistics only), train (as requires_grad=False alone leaves it: its statistics move)."
        ),
        Setting("FREEZE.NORM"),
    ] = None,
    stages: Annotated[Stages, Setting("FREEZE.STAGES", lambda stages, held: stages or globs(held))] = None,
    verify: Annotated[bool, typer.Option(help="Train a copy and compare bytes.")] = True,
    ddp: Annotated[
        bool, typer.Option(help="Include in the verification a step of two DDP processes.")
    ] = True,
    steps: Annotated[
        Optional[int],
        typer.Option(
            help="Training steps of each optimizer; each costs a forward and a backward. Default: 8 for"
            " models of up to 5 million parameters, else 2."
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 1 if a hook cannot be carried over to the trained copy.")
    ] = False,
    save: Annotated[
        Optional[Path],
        typer.Option(help="Write the state_dict here, and the frozen names to FILE.json next to it."),
    ] = None,
) -> None:
    """Freeze the first stages of a model, and verify with training steps that they stay frozen.

    Without --at and --pattern nothing is changed: what the model itself has frozen is verified.
    """
