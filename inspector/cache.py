"""Traces that cannot change, kept between runs in the user's cache directory.

Shapes alone decide what a registry model (torchvision, timm) does on meta: its trace depends on names,
arguments and versions, all of which are in the key of its file. Models of users' own files are never kept.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from inspector import __version__
from inspector.errors import InspectError
from inspector.files import write_whole
from inspector.log import logger
from inspector.trace.record import Trace

SOURCES = ("torchvision", "timm")
MOST = 300
"""Files that are kept; the oldest go."""


def folder() -> Path:
    """Where the traces are."""
    from platformdirs import user_cache_path

    return user_cache_path("inspector", appauthor=False) / "traces"


@dataclass(frozen=True)
class Entry:
    """The place of one trace: a file that may not be there."""

    file: Path

    @staticmethod
    def of(
        spec: str,
        model_args: Mapping[str, Any] | None,
        inputs: Sequence[str] | None,
        phase: str,
        seed: int = 0,
    ) -> Entry | None:
        """The entry of a registry model; None for any other."""
        source, colon, _ = spec.partition(":")
        if (colon and source not in SOURCES) or spec.endswith(".py") or not spec:
            return None
        parts = [
            spec,
            dict(model_args or {}),
            list(inputs) if inputs else None,
            phase,
            seed,
            _versions(),
            _code(),
        ]
        text = json.dumps(parts, sort_keys=True, default=repr)
        return Entry(folder() / f"{hashlib.sha256(text.encode()).hexdigest()}.json")

    def load(self) -> Trace | None:
        """The trace; None where there is none. A file that is damaged is removed."""
        if not self.file.is_file():
            return None
        try:
            return Trace.load(self.file)
        except InspectError as error:
            logger.info("cache: %s", error.message)
            self.file.unlink(missing_ok=True)
            return None

    def store(self, found: Trace) -> None:
        """Keep a trace that depends on nothing but the key. Nothing is lost where that cannot be written."""
        if found.device != "meta" or found.source not in SOURCES or found.failure is not None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, found.to_json())
            _prune()
        except (OSError, InspectError) as error:
            logger.info("cache: %s", error)


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


def _prune() -> None:
    for file in entries()[MOST:]:
        file.unlink(missing_ok=True)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"inspector": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "timm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _code() -> list[tuple[str, int, int]]:
    """This package's own files: a formula that was changed is another version of it."""
    root = Path(__file__).parent
    files = sorted(root.rglob("*.py"))
    return [(str(f.relative_to(root)), (s := f.stat()).st_size, s.st_mtime_ns) for f in files]
