"""List and search the models that have a name."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli.choices import Source
from inspector.cli.command import command


@command("models.catalogue:models")
def models(
    query: Annotated[Optional[str], typer.Argument(help="Part of a name, or a glob: 'resnet*'.")] = None,
    source: Annotated[Optional[Source], typer.Option(help="Only those of one source.")] = None,
) -> None:
    """List and search the models that have a name: torchvision's, and timm's where installed."""
