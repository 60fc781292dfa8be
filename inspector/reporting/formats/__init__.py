"""One file a format; every format renders a `Report`. `FORMATS` maps a name to its file."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from inspector.core.errors import InspectError

FORMATS = {
    "table": "text", "markdown": "markdown", "json": "json_", "csv": "csv_", "html": "html",
    "junit": "junit", "github": "github",
}  # fmt: skip
SUFFIXES = {
    ".txt": "table", ".md": "markdown", ".json": "json", ".csv": "csv", ".html": "html", ".htm": "html",
    ".xml": "junit", ".github": "github",
}  # fmt: skip


def renderer(name: str) -> Callable[..., str]:
    """The function that writes a report in the format `name`."""
    if name not in FORMATS:
        raise InspectError(f"unknown format {name!r}", f"use one of: {', '.join(FORMATS)}")
    return import_module(f"inspector.reporting.formats.{FORMATS[name]}").render  # type: ignore[no-any-return]


def format_of(path: str | Path) -> str:
    """The format that a file's suffix asks for."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise InspectError(
            f"{path}: no format has the suffix {suffix!r}",
            f"end it in {', '.join(SUFFIXES)}, or say `format=`",
        )
    return SUFFIXES[suffix]
