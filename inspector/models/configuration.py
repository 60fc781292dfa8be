"""The configuration that `hf:` names: a config.json on this machine, or of a repository of the hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.models import hub

FILE, PIPELINE = "config.json", "model_index.json"


@dataclass(frozen=True)
class Configuration:
    """A configuration and where it is from: `name` is what a report calls the model, `label` what an error
    calls the file. `place` is the repository at the commit, None for what lies on this machine."""

    name: str
    label: str
    file: Path
    content: dict[str, Any]
    place: hub.Repository | None = None
    notes: tuple[str, ...] = ()

    def with_code(self) -> Path:
        """The folder of the configuration, with the Python files that lie beside it. Raises InspectError."""
        if self.file.name != FILE:
            raise InspectError(f"{self.label} is no folder with its code beside it", "name the folder")
        if self.place is not None:
            root = f"{self.place.path}/" if self.place.path else ""
            for name in hub.listing(self.place).files:
                if name.endswith(".py") and name.startswith(root):
                    hub.fetch(self.place, name)
        return self.file.parent


def configuration(path: str) -> Configuration:
    """Of `DIR`, a JSON file, or `ORG/NAME[/SUBFOLDER][@REVISION]` on the hub, of which nothing else is
    fetched. Raises InspectError."""
    place = hub.repository(path)
    return _here(path) if place is None else _there(place)


def _here(path: str) -> Configuration:
    folder = Path(path).expanduser()
    file = folder / FILE if folder.is_dir() else folder
    if not file.is_file():
        if (folder / PIPELINE).is_file():
            raise _pipeline(path, sorted(entry.parent.name for entry in folder.glob(f"*/{FILE}")))
        where = "a folder with a config.json, the JSON file, or hf:ORG/NAME of the hub"
        raise InspectError(f"no configuration at {file}", f"name {where}")
    return Configuration(path, str(file), file, _content(file, str(file)))


def _there(place: hub.Repository) -> Configuration:
    try:
        fetched = hub.fetch(place, place.file(FILE))
    except hub.MissingFile as error:
        raise _without(place) or error from error
    there = place.at(fetched.commit)
    label = f"{place.file(FILE)} of {place.name}"
    notes = (fetched.note,) if fetched.note else ()
    return Configuration(str(there), label, fetched.file, _content(fetched.file, label), there, notes)


def _content(file: Path, label: str) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if any(key in content for key in ("model_type", "_class_name", "auto_map")):
            return dict(content)
        raise KeyError("model_type")
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise InspectError(
            f"{label} is not a model configuration",
            "it needs JSON with a model_type, or diffusers' _class_name",
        ) from error


def _without(place: hub.Repository) -> InspectError | None:
    """What a repository without a configuration is instead, where that can be told."""
    try:
        files = hub.listing(place).files
    except InspectError as error:
        logger.info("%s", error.message)
        return None
    root = f"{place.path}/" if place.path else ""
    inside = [name.removeprefix(root) for name in files if name.startswith(root)]
    parts = [
        name.removesuffix(f"/{FILE}") for name in inside if name.count("/") == 1 and name.endswith(f"/{FILE}")
    ]
    spec = f"{place.name}/{place.path}" if place.path else place.name
    if PIPELINE in inside:
        return _pipeline(spec, parts)
    if not inside:
        return InspectError(f"{place} is not there", f"see its files: {hub.page(place)}")
    if any(name.endswith(".gguf") for name in inside):
        hint = f"list its tensors with: inspect params hf:{spec}"
        return InspectError(f"{place} has GGUF files, and no {FILE} to build a model from", hint)
    if parts:
        return InspectError(f"{place} has no {FILE}", f"name a part: {_specs(spec, parts)}")
    return None


def _pipeline(spec: str, parts: Sequence[str]) -> InspectError:
    named = f"name one of its models: {_specs(spec, parts)}" if parts else "name a folder with a config.json"
    return InspectError(f"{spec} is a pipeline of several models", named)


def _specs(spec: str, parts: Sequence[str]) -> str:
    return ", ".join(f"hf:{spec.rstrip('/')}/{part}" for part in parts[:6])
