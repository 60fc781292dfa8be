"""Emitting a Report: to standard output or into files, in the requested format."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inspector.core.errors import InspectError

if TYPE_CHECKING:
    from inspector.reporting.report import Report


def check(form: str | None, default: str, files: Sequence[Path], save: Path | None) -> None:
    """Refuse a wrong format or an unwritable path before the work, not after it."""
    for file in files:
        _format(form, file, files)
        folder = file.expanduser().resolve().parent
        if not folder.is_dir() or not os.access(folder, os.W_OK) or file.is_dir():
            raise InspectError(
                f"cannot write {file}", "choose a file in an existing folder that you may write to"
            )
        if save is not None and file.expanduser().resolve() in (
            save.expanduser().resolve(),
            save.with_name(f"{save.name}.json").expanduser().resolve(),
        ):
            raise InspectError(f"{file} is written by --save too", "choose another file for --output")
    if not files and form is None and default == "html" and sys.stdout.isatty():
        raise InspectError("an HTML page cannot be shown in a terminal", "write it to a file: -o report.html")


def emit(report: Report, form: str | None, default: str, files: Sequence[Path], wide: bool = False) -> None:
    """Write the report into every file that was asked for, or to standard output where none was: on a
    terminal into its width, unless `wide`."""
    from inspector.core.files import write_whole

    for file in files:
        write_whole(file, report.written(_format(form, file, files)))
    if not files:
        color, width = False, None
        if sys.stdout.isatty():
            from inspector.reporting.formats.table import terminal_width

            plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
            color, width = not plain, None if wide else terminal_width()
        with unless_closed():
            print(report.written(form or default, color, width), end="", flush=True)


@contextmanager
def unless_closed() -> Iterator[None]:
    """Go on where the reader closed the pipe (`| head`): nothing is wrong, and nothing more can be shown."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _format(form: str | None, file: Path, files: Sequence[Path]) -> str:
    """The requested format for a single file, else the one its suffix names."""
    from inspector.reporting.formats import format_of

    return form if form is not None and len(files) == 1 else format_of(file)
