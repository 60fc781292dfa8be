"""Show or clear the cache of traces."""

from __future__ import annotations

from typing import Annotated

import typer

from inspector.cli import options


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all of it.")] = False,
    format: options.Format = None,
    output: options.Output = None,
    debug: options.Debug = False,
) -> None:
    """Show or clear the cache of traces.

    It holds traces of torchvision and timm models, which depend on names and versions alone.
    """
    options.check_output(format, output)
    from inspector.core import cache as store
    from inspector.reporting.report import Report, environment, metric

    removed = store.clear() if clear else None
    files = store.entries()
    values = {"entries": len(files), "bytes": sum(file.stat().st_size for file in files)}
    if removed is not None:
        values["removed"] = removed
    metrics = {name: metric(name, value, direction="none") for name, value in values.items()}
    header = [("cache", str(store.folder()))]
    options.emit(Report("cache", {"name": "traces"}, environment(), metrics, header=header), format, output)
