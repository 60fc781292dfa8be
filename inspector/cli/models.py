"""List and search the models that have a name."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli import options


def models(
    query: Annotated[Optional[str], typer.Argument(help="Part of a name, or a glob: 'resnet*'.")] = None,
    source: Annotated[Optional[str], typer.Option(help="Only torchvision or timm.")] = None,
    format: options.Format = None,
    output: options.Output = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """List and search the models that have a name: torchvision's, and timm's where installed."""
    options.check_output(format, output)
    from inspector.core.log import to_console
    from inspector.models.catalogue import models as make

    to_console(verbose)

    options.emit(make(query, source=source), format, output)
