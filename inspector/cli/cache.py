"""Show or clear the cache of traces."""

from __future__ import annotations

from typing import Annotated

import typer

from inspector.cli.command import command


@command("profiling.cached:cache")
def cache(clear: Annotated[bool, typer.Option("--clear", help="Remove every trace in it.")] = False) -> None:
    """Show or clear the cache of traces.

    It holds traces of torchvision and timm models, which depend on names and versions alone, and the names of
    modules that the shell completes.
    """
