"""The files that inspector keeps between runs, in the user's cache directory."""

from __future__ import annotations

from pathlib import Path

MOST = 300
"""Files that are kept; the oldest go."""


def folder() -> Path:
    """Where the traces are."""
    from platformdirs import user_cache_path

    return user_cache_path("inspector", appauthor=False) / "traces"


def entries() -> list[Path]:
    """The files of the cache, the newest first."""
    files = [file for file in folder().glob("*.json") if file.is_file()]
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def clear() -> int:
    """Remove every trace; how many there were."""
    files = entries()
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def prune() -> None:
    """Remove the oldest files beyond `MOST`."""
    for file in entries()[MOST:]:
        file.unlink(missing_ok=True)
