"""One file a format; every format renders a report. A file of this folder is a format by its name (less an
underscore that keeps it apart from a module of Python's), with SUFFIXES of files and `render(report)`.

`renderer` is the one way in: it makes every text of a report harmless before a format for people sees it. A
format with RAW = True is for programs, and gets the report itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from inspector.core.errors import InspectError
from inspector.reporting.harmless import harmless

FORMATS = {
    file.stem.removesuffix("_"): f"{__name__}.{file.stem}"
    for file in sorted(Path(__file__).parent.iterdir())
    if file.suffix in ("", ".py") and file.stem.isidentifier() and not file.stem.startswith("_")
}
"""The module of each format."""


def renderer(name: str) -> Callable[..., str]:
    """The function that writes a report in the format `name`, harmless names and messages in it."""
    if name not in FORMATS:
        raise InspectError(f"unknown format {name!r}", f"use one of: {', '.join(FORMATS)}")
    module = _module(name)
    render: Callable[..., str] = module.render
    if getattr(module, "RAW", False):
        return render
    return lambda report, *how: render(harmless(report), *how)


def format_of(path: str | Path) -> str:
    """The format that a file's suffix asks for."""
    suffix = Path(path).suffix.lower()
    formats = {ending: name for name in FORMATS for ending in _module(name).SUFFIXES}
    if suffix not in formats:
        raise InspectError(
            f"{path}: no format has the suffix {suffix!r}",
            f"end it in {', '.join(formats)}, or say `format=`",
        )
    return formats[suffix]


def _module(name: str) -> ModuleType:
    return import_module(FORMATS[name])
