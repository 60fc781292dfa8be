"""Where a report comes from: a file, or a file as it was in a revision of git."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.regress.content import Side, side
from inspector.regress.later import content_of
from inspector.reporting.schema import read_text

GIT = "git:"


def is_report(text: str) -> bool:
    """Whether the text names a report rather than a live model: `git:REV:PATH`, a file, a `.json`."""
    return text.startswith(GIT) or text.endswith(".json") or Path(text).expanduser().is_file()


def read(text: str) -> Side:
    """The report that a file, or `git:REV:PATH`, holds. Raises InspectError for anything else."""
    if text.startswith(GIT):
        content = _at_revision(text)
    else:
        content = read_text(Path(text).expanduser())
    return side(content_of(content, text), text)


def live(content: dict[str, Any], name: str) -> Side:
    """The report of a model as it is now."""
    return side(content, f"{name} (now)")


def _at_revision(text: str) -> str:
    import subprocess

    revision, colon, path = text.removeprefix(GIT).partition(":")
    if not colon or not revision or not path or revision.startswith("-"):
        raise InspectError(f"cannot read {text!r}", "write git:REVISION:PATH, e.g. git:main:base.json")
    try:
        done = subprocess.run(
            ["git", "cat-file", "blob", f"{revision}:{path}"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    except (OSError, UnicodeDecodeError) as error:
        raise InspectError(f"cannot read {text}: {error}", "git must be installed") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["git failed"]
        raise InspectError(
            f"cannot read {text}: {lines[-1]}",
            "PATH is relative to the repository (./PATH to this folder); a shallow clone lacks old revisions",
        )
    return done.stdout
