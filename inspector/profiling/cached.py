"""Traces that cannot change, kept between runs.

Shapes alone decide what a registry model (torchvision, timm) does on meta: its trace depends on names,
arguments, code and versions, all of which are in the key of its file. Models of users' own files are never
kept.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.core.cache import clear as clear_files
from inspector.core.cache import entries, folder, prune
from inspector.core.errors import InspectError
from inspector.core.files import write_whole
from inspector.core.log import logger
from inspector.core.version import __version__, marks, package_folder, stamps
from inspector.reporting.report import Report, environment, metric
from inspector.tracing.record import Trace

SOURCES = ("torchvision", "timm")
_MODELS = ("models", "ops", "layers")
"""The folders of those packages that hold models and what they are made of."""


def cache(*, clear: bool = False) -> Report:
    """How many traces are kept, their bytes and their folder; `clear` removes them all first."""
    removed = clear_files() if clear else None
    files = entries()
    numbers = {"entries": len(files), "bytes": sum(file.stat().st_size for file in files)}
    if removed is not None:
        numbers["removed"] = removed
    values = {name: metric(name, value, direction="none") for name, value in numbers.items()}
    header = [("cache", str(folder()))]
    return Report("cache", {"name": "traces"}, environment(), values, header=header)


@dataclass(frozen=True)
class Entry:
    """The place of one trace: a file that may not be there."""

    file: Path

    @staticmethod
    def of(
        spec: Any,
        model_args: Mapping[str, Any] | None,
        inputs: Any,
        phase: str,
        seed: int = 0,
        call: str | None = None,
    ) -> Entry | None:
        """The entry of a registry model whose inputs are written as shapes; None for any other."""
        lines = [inputs] if isinstance(inputs, str) else list(inputs or [])
        if not isinstance(spec, str) or not all(isinstance(line, str) for line in lines):
            return None
        source, colon, _ = spec.partition(":")
        if (colon and source not in SOURCES) or spec.endswith(".py") or not spec:
            return None
        parts = [spec, dict(model_args or {}), lines or None, phase, seed, call, _versions(), _code(source)]
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

    def store(self, trace: Trace) -> None:
        """Keep a trace that depends on nothing but the key. A file that cannot be written is only logged."""
        if trace.device != "meta" or trace.source not in SOURCES or trace.failure is not None:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, trace.to_json())
            prune()
        except (OSError, InspectError) as error:
            logger.info("cache: %s", error)


def _versions() -> dict[str, Any]:
    packages = {name: marks(name) for name in ("torch", "torchvision", "timm")}
    return {"inspector": __version__, "python": platform.python_version(), **packages}


def _code(source: str) -> list[list[tuple[str, int, int]]]:
    """The files of this package and of the models' own: a formula or a model that was changed is another
    version of it."""
    models = package_folder(source if source in SOURCES else "torchvision")
    folders = [Path(__file__).parents[1], *(models / part for part in _MODELS if models is not None)]
    return [stamps(folder) for folder in folders if folder.is_dir()]
