"""The tensors of checkpoint files, on this machine and on the hub, without their values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.trust import TRUST
from inspector.models import gguf, header, hub
from inspector.models.configuration import configuration
from inspector.models.head import FileHead
from inspector.models.stored import CHECK, NoWeights, Stored, compared, stored, together, total_of
from inspector.profiling.ledger import ledger_report
from inspector.reporting.report import Finding, Report
from inspector.tracing.record import StateEntry

HUB = ("hf:", "huggingface:")
"""How specs of the hub begin."""


def is_file(spec: str) -> bool:
    """Whether a spec is the path of a checkpoint."""
    if spec.startswith(HUB):
        return False
    return header.is_checkpoint(spec) or spec.lower().endswith(gguf.SUFFIX)


def of_file(path: Path, top: int | None) -> Report:
    """The tensors of a checkpoint, of a split GGUF file with all its parts. Raises InspectError."""
    lines: list[tuple[str, str]] = []
    if path.name.lower().endswith(gguf.SUFFIX):
        names = gguf.parts(path.name)
        read: dict[str, gguf.Gguf] = {}
        for name in names:
            with header.readable(path.with_name(name)) as file:
                read[name] = gguf.read(FileHead(file))
        entries = together({name: part.entries for name, part in read.items()}, "name another file")
        lines = _described(read[names[0]].metadata)
    else:
        entries = _tensors(path)
    result = ledger_report(path.name, "checkpoint", entries, top)
    result.header += lines
    note = "a checkpoint does not say which tensors are parameters: all are listed"
    result.findings.append(Finding("kind", "warn", "", note))
    return result


def _tensors(path: Path) -> tuple[StateEntry, ...]:
    if not header.is_safetensors(path):
        from inspector.models import checkpoint  # torch.load: a header of safetensors needs no torch

        return checkpoint.read(path)
    with header.readable(path) as file:
        return header.header(file)


def on_the_hub(spec: str, model_args: Mapping[str, Any]) -> hub.Repository | None:
    """The repository that a spec names, where it is to be read as it is; None for what is built."""
    as_it_is = spec.startswith(HUB) and not set(model_args) - {TRUST}
    return hub.repository(spec.partition(":")[2]) if as_it_is else None


def of_hub(place: hub.Repository, model_args: Mapping[str, Any], top: int | None) -> Report | None:
    """The tensors that the repository stores, by the headers of its files; None where it has a configuration
    and no file whose header could be read. Raises InspectError."""
    try:
        held = stored(place)
    except NoWeights as problem:
        try:
            hub.fetch(place, place.file("config.json"))
        except InspectError:
            raise problem from None
        return None
    there = place.at(held.commit)
    result = ledger_report(str(there), "huggingface", held.entries, top)
    count = len(held.files)
    result.header.append(
        ("read", f"the headers of {count} files" if count > 1 else f"the header of {held.files[0]}")
    )
    result.header += _described(held.metadata)
    result.findings += [*held.findings, _against_built(there, held, model_args)]
    return result


def _against_built(place: hub.Repository, held: Stored, model_args: Mapping[str, Any]) -> Finding:
    """Whether a model that is built from the configuration has as many parameters as the files."""
    from inspector.models import as_recipe
    from inspector.tracing.capture.state import state_entries

    if place.path in held.files:
        folder = PurePosixPath(place.path).parent.as_posix()
        place = hub.Repository(place.name, "" if folder == "." else folder, place.revision)
    try:
        content = configuration(str(place)).content
        entries = state_entries(as_recipe(f"hf:{place}", model_args).build("meta"))
    except InspectError as error:
        return Finding(CHECK, "skip", "", f"not held against a model that is built: {error.message}")
    return compared(total_of(held), content, entries)


def _described(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a GGUF file says of itself: architecture, name, file type, context."""
    if not metadata:
        return []
    kind = metadata.get("general.architecture")
    context = metadata.get(f"{kind}.context_length")
    parts = [kind, metadata.get("general.name"), gguf.file_type(metadata)]
    parts += [f"context {context:,}"] if isinstance(context, int) else []
    return [("GGUF", ", ".join(str(part) for part in parts if part))]
