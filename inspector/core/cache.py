"""The files that inspector keeps between runs, in the user's cache directory."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

MOST = 300
"""Files that are kept; the oldest go."""


MODELS = 50
"""Models whose names are kept."""


def _home() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("inspector", appauthor=False)


def folder() -> Path:
    """Where the traces are."""
    return _home() / "traces"


def entries() -> list[Path]:
    """The files of the cache, the newest first."""
    files = [file for file in folder().glob("*.json") if file.is_file()]
    return sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)


def clear() -> int:
    """Remove every trace; how many there were."""
    files = entries()
    for file in files:
        file.unlink(missing_ok=True)
    _names_file().unlink(missing_ok=True)
    return len(files)


def prune() -> None:
    """Remove the oldest files beyond `MOST`."""
    for file in entries()[MOST:]:
        file.unlink(missing_ok=True)


def _names_file() -> Path:
    return _home() / "names.json"


def names_of(model: str) -> list[str]:
    """The names that `remember_names` kept for this model, to complete a line with."""
    return [str(name) for name in _all_names().get(model, [])]


def remember_names(model: str, names: list[str]) -> None:
    """Keep the names of a model's modules, as its last run had them. Raises where they cannot be written."""
    from inspector.core.files import write_whole

    held = _all_names()
    if not names or held.get(model) == names:
        return
    held.pop(model, None)
    latest = dict(list(held.items())[-MODELS + 1 :]) | {model: names}
    _home().mkdir(parents=True, exist_ok=True)
    write_whole(_names_file(), json.dumps(latest))


def _all_names() -> dict[str, list[str]]:
    with suppress(OSError, ValueError):
        held = json.loads(_names_file().read_text(encoding="utf-8"))
        if isinstance(held, dict) and all(isinstance(names, list) for names in held.values()):
            return held
    return {}
