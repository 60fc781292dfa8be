"""The weights that a repository of the hub stores, by the headers of its files alone, and whether their
totals are those of a model that is built from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from inspector.core.errors import InspectError
from inspector.models import gguf, headers, hub
from inspector.models.head import of_hub
from inspector.reporting.numbers import counted
from inspector.reporting.report import Finding
from inspector.tracing.record import ITEM_BYTES, StateEntry

STEMS = ("model", "diffusion_pytorch_model")
"""What transformers calls its weights, and what diffusers does."""
SAFE, INDEX = ".safetensors", ".safetensors.index.json"
CHECK = "weights"
AT_ONCE = 8
"""Requests at the same time."""
MOST_FILES = 2_000


@dataclass(frozen=True)
class Stored:
    """The tensors of the files of one commit, and what a GGUF file says of itself."""

    commit: str
    files: tuple[str, ...]
    entries: tuple[StateEntry, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


class NoWeights(InspectError):
    """The repository stores no safetensors and no GGUF files in this folder."""


def stored(place: hub.Repository) -> Stored:
    """The tensors that the repository stores, without its weights. Raises InspectError, NoWeights where there
    are no files whose header says it."""
    held = hub.listing(place)
    there = place.at(held.commit)
    names, index = _chosen(there, held)
    findings = [Finding("provenance", "warn", "", held.note)] if held.note else []
    if names[0].lower().endswith(gguf.SUFFIX):
        read = _each(names, lambda name: gguf.read(of_hub(there, name)))
        entries = together({name: file.entries for name, file in zip(names, read)}, _one_alone(there))
        return Stored(held.commit, names, entries, read[0].metadata, tuple(findings))
    tensors = _each(names, lambda name: headers.safetensors(of_hub(there, name)))
    entries = together(dict(zip(names, tensors)), _one_alone(there))
    if index is not None:
        findings.append(_as_indexed(index, entries, len(names)))
    return Stored(held.commit, names, entries, {}, tuple(findings))


def _each(names: Sequence[str], read: Callable[[str], Any]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(read, names))


def together(files: Mapping[str, Iterable[StateEntry]], hint: str) -> tuple[StateEntry, ...]:
    """The tensors of all files. Raises InspectError where two hold one name."""
    holder: dict[str, str] = {}
    for file, entries in files.items():
        for entry in entries:
            if (other := holder.setdefault(entry.name, file)) != file:
                raise InspectError(f"{entry.name[:100]!r} stands in {other} and in {file}", hint)
    return tuple(entry for entries in files.values() for entry in entries)


def _one_alone(place: hub.Repository) -> str:
    return f"name one file: hf:{place.name}/FILE"


# Which files hold the weights.


def _chosen(place: hub.Repository, held: hub.Listing) -> tuple[tuple[str, ...], Any]:
    """The files that hold the weights, and the index that names them, None where there is none."""
    files = held.files
    if place.path in files:
        return _one(place, place.path, held)
    folder = PurePosixPath(place.path)
    names = sorted(name for name in files if PurePosixPath(name).parent == folder)
    if not names and place.path:
        raise InspectError(
            f"{place.at(place.revision)} is not there", f"{place.name} has: {_some(_tops(files))}"
        )
    for suffix in (INDEX, SAFE):
        usual = [name for stem in STEMS if (name := place.file(stem + suffix)) in files]
        if usual or (usual := _only(names, suffix)):
            return _one(place, usual[0], held)
    if several := [name for name in names if name.endswith(SAFE)]:
        raise InspectError(
            f"{place} has {len(several)} safetensors files: {_some(several)}", _name_one(place, several)
        )
    first = [name for name in names if name.lower().endswith(gguf.SUFFIX) and gguf.parts(name)[0] == name]
    if len(first) > 1:
        raise InspectError(f"{place} has {len(first)} GGUF files: {_some(first)}", _name_one(place, first))
    if not first:
        raise NoWeights(f"{place} has no safetensors and no GGUF files", _parts_hint(place, files))
    return _one(place, first[0], held)


def _only(names: Sequence[str], suffix: str) -> list[str]:
    matching = [name for name in names if name.endswith(suffix)]
    return matching if len(matching) == 1 else []


def _one(place: hub.Repository, name: str, held: hub.Listing) -> tuple[tuple[str, ...], Any]:
    """The files that one name means: an index those that it lists, a part of a split GGUF file all parts."""
    if name.endswith(INDEX):
        index = hub.content(hub.fetch(place, name), f"{name} of {place.name}")
        return _shards(place, name, index, held), index
    if not name.lower().endswith((SAFE, gguf.SUFFIX)):
        raise InspectError(
            f"{name} of {place.name} has no header that could be read", "name a .safetensors or .gguf file"
        )
    names = gguf.parts(name) if name.lower().endswith(gguf.SUFFIX) else (name,)
    for part in names:
        if part not in held.files:
            raise _absent(place, part, held)
    return names, None


def _absent(place: hub.Repository, file: str, held: hub.Listing) -> InspectError:
    """A file that another one needs is not there, or not in the cache."""
    if held.note:
        what = f"{file[:100]} of {place.name} is not in the cache ({held.note})"
        return InspectError(what, "run it once with the hub in reach")
    return InspectError(f"{place.name} has no {file[:100]}", _one_alone(place))


def _shards(place: hub.Repository, name: str, index: Any, held: hub.Listing) -> tuple[str, ...]:
    """The files of an index, in its own folder. Raises InspectError for those that are elsewhere."""
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if (
        not isinstance(shards, dict)
        or not shards
        or not all(isinstance(file, str) for file in shards.values())
    ):
        raise InspectError(f"{name} of {place.name} has no weight_map", _one_alone(place))
    folder = PurePosixPath(name).parent
    files = {file: (folder / file).as_posix() for file in shards.values()}
    for file, path in files.items():
        if "/" in file or "\\" in file or not file.endswith(SAFE):
            raise InspectError(
                f"{name} of {place.name} names {file[:100]!r}, which is no file beside it", _one_alone(place)
            )
        if path not in held.files:
            raise _absent(place, path, held)
    if len(files) > MOST_FILES:
        raise InspectError(f"{name} of {place.name} names {len(files):,} files", "name one of them")
    return tuple(sorted(files.values()))


def _as_indexed(index: Any, entries: Sequence[StateEntry], files: int) -> Finding:
    """Whether the index says what the headers hold: names, elements and bytes."""
    names, listed = {entry.name for entry in entries}, set(index["weight_map"])
    nbytes, numel = sum(entry.nbytes for entry in entries), sum(entry.numel for entry in entries)
    total = totals(index)
    wrong = [f"names {len(listed - names):,} tensors that no file holds"] if listed - names else []
    wrong += [f"leaves out {len(names - listed):,} tensors"] if names - listed else []
    if total.nbytes not in (None, nbytes):
        wrong.append(f"says {total.nbytes:,} bytes, and the headers {nbytes:,}")
    if wrong:
        return Finding(
            "index", "warn", "", f"the index {'; '.join(wrong)}", {"bytes": nbytes, "elements": numel}
        )
    message = f"{len(names):,} tensors in {counted(files, 'file')} with {nbytes:,} bytes, as the index says"
    return Finding("index", "pass", "", message)


def _tops(files: Iterable[str]) -> list[str]:
    return sorted({name.partition("/")[0] for name in files})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


def _name_one(place: hub.Repository, names: Sequence[str]) -> str:
    return f"name one: hf:{place.name}/{names[0]}"


def _parts_hint(place: hub.Repository, files: Sequence[str]) -> str:
    folders = sorted(
        {str(PurePosixPath(name).parent) for name in files if name.endswith((SAFE, gguf.SUFFIX))}
    )
    return (
        f"name a part: {_some([f'hf:{place.name}/{folder}' for folder in folders])}"
        if folders
        else "name another model"
    )


# Whether a model that is built has as many.


@dataclass(frozen=True)
class Total:
    """What the hub says of all weights together; None is unknown."""

    elements: int | None
    nbytes: int | None
    source: str


def totals(index: Any) -> Total:
    """The totals that an index has in its metadata."""
    about = index.get("metadata") if isinstance(index, dict) else None
    about = about if isinstance(about, dict) else {}
    numbers = [about.get(key) for key in ("total_parameters", "total_size")]
    elements, nbytes = (int(n) if isinstance(n, int | float) and 0 < n < 2**63 else None for n in numbers)
    return Total(elements, nbytes, "safetensors index")


def total_of(held: Stored) -> Total:
    """The totals of what the headers say."""
    elements, nbytes = sum(e.numel for e in held.entries), sum(e.nbytes for e in held.entries)
    return Total(
        elements, nbytes, f"headers of {len(held.files)} files" if len(held.files) > 1 else "file header"
    )


def held_against(place: hub.Repository, config: Mapping[str, Any], entries: Sequence[StateEntry]) -> Finding:
    """Whether the parameters that were built are those of the hub's weights: by the totals of the index, by
    the headers of the files where these do not settle it."""
    index = None
    try:
        index = _index_of(place, STEMS["_class_name" in config])
        if index is not None and (agrees := compared(totals(index), config, entries)).status == "pass":
            return agrees
        return compared(total_of(stored(place)), config, entries)
    except InspectError as error:
        told = totals(index) if index is not None else None
        if told is not None and told.elements is not None:
            return compared(told, config, entries)
        return Finding(CHECK, "skip", "", f"not held against the hub's weights: {error.message}")


def _index_of(place: hub.Repository, stem: str) -> Any:
    """The index of the usual name; None where there is none."""
    name = place.file(stem + INDEX)
    try:
        return hub.content(hub.fetch(place, name), f"{name} of {place.name}")
    except hub.MissingFile:
        return None


def compared(total: Total, config: Mapping[str, Any], entries: Sequence[StateEntry]) -> Finding:
    """A total of the hub against the parameters of a model. Files may also hold persistent buffers, and tied
    tensors under each of their names."""
    params = [entry for entry in entries if entry.kind == "parameter"]
    buffers = [entry for entry in entries if entry.kind == "buffer" and entry.persistent]
    tied = [entry for entry in params for _ in entry.aliases]
    built = sum(entry.numel for entry in params)
    ways = {"": params, "buffers": params + buffers, "tied tensors twice": params + tied,
            "buffers and tied tensors twice": params + buffers + tied}  # fmt: skip
    for extra, parts in ways.items():
        numel = sum(entry.numel for entry in parts)
        same = (
            numel == total.elements if total.elements is not None else _nbytes(parts, config) == total.nbytes
        )
        if same:
            more = f", which hold {numel:,} elements with {extra}" if extra else ""
            return Finding(
                CHECK, "pass", "", f"{built:,} parameters, as in the hub's weights ({total.source}{more})"
            )
    amount = f"{total.elements:,} elements" if total.elements is not None else f"{total.nbytes or 0:,} bytes"
    why = "; the files are quantised" if config.get("quantization_config") else ""
    message = f"{built:,} parameters are built, and the hub's weights hold {amount} ({total.source}{why})"
    evidence = {"built": built, "elements": total.elements, "bytes": total.nbytes}
    return Finding(CHECK, "warn", "", message, evidence)


def _nbytes(entries: Iterable[StateEntry], config: Mapping[str, Any]) -> int | None:
    """The bytes of tensors in the dtype that the configuration names; None where it names none."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    if name not in ITEM_BYTES:
        return None
    return sum(e.numel * ITEM_BYTES[name if "float" in e.dtype else e.dtype] for e in entries)
