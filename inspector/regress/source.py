"""Where a report comes from: a file, or a file as it was in a revision of git."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.regress.content import Side, side
from inspector.regress.later import content_of
from inspector.reporting.schema import read_text

if TYPE_CHECKING:
    import subprocess

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
    revision, colon, path = text.removeprefix(GIT).partition(":")
    if not colon or not revision or not path or revision.startswith("-"):
        lacks = "no revision" if not revision or revision.startswith("-") else "no file"
        example = f"git:{revision if lacks == 'no file' else 'main'}:{path or 'base.json'}"
        raise InspectError(f"{text!r} names {lacks}", f"write git:REVISION:PATH, e.g. {example}")
    done = _git(text, "cat-file", "blob", f"{revision}:{path}")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["git failed"]
        raise InspectError(f"cannot read {text}: {lines[-1]}", _hint(text, revision, path))
    return done.stdout


def _hint(text: str, revision: str, path: str) -> str:
    """What to do where git has no such file."""
    if _git(text, "rev-parse", "--git-dir").returncode:
        return "run it inside of the repository"
    if _git(text, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}").returncode:
        return f"see: git log --all; a shallow clone lacks old revisions (git fetch origin {revision})"
    there = _git(text, "ls-tree", "-r", "--name-only", "--full-tree", revision).stdout.splitlines()
    reports = [name for name in there if name.endswith(".json")]
    relative = "PATH is relative to the repository (./PATH to this folder)"
    return nearest(path, reports, f"commit it there first; {relative}")


def _git(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    import subprocess

    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, encoding="utf-8", check=False)
    except (OSError, UnicodeDecodeError) as error:
        raise InspectError(f"cannot read {text}: {error}", "git must be installed") from error
