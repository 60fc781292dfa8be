"""What `inspect table` was asked for: names, globs, YAML lists and whole sources become entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.core.trust import TRUST, refuse_in_file
from inspector.core.values import yaml_file
from inspector.models import timm, torchvision
from inspector.models.serving import PHASES, Serving
from inspector.regress.sweep.row import Entry

SOURCES = {"torchvision": torchvision, "timm": timm}
STEP = ("context", "batch", "new_tokens", "kv_cache")
"""Of a row whose phase is prefill or decode, see `inspector.trace`."""
_KEYS = ("model", "name", "input", "model_args", "phase", "call", *STEP)


def entries(
    models: Sequence[str],
    *,
    all: str | None = None,
    inputs: Sequence[str] | None = None,
    model_args: Mapping[str, Any] | None = None,
    phase: str = "forward",
    call: str | None = None,
) -> list[Entry]:
    """One entry for each model, in the order asked for; a model that two globs name comes once.

    models: specs, globs of torchvision's names (`resnet*`) or timm's (`timm:resnet*`), and YAML files
        with a list of specs or of mappings with `model` and any of `name`, `input`, `model_args`, `phase`,
        `call`; for a phase prefill or decode also `context`, `batch`, `new_tokens` and `kv_cache`.
    all: every model of a source. `inputs`, `model_args`, `phase` and `call` (the method to run in place of
        the forward) hold where a list says nothing.
    """
    common = Entry(
        "", "", tuple(inputs) if inputs else None, dict(model_args or {}), phase, call or "forward"
    )
    wanted: list[Entry] = []
    if all is not None:
        wanted += [_entry(spec, common) for spec in _all(all)]
    for text in models:
        if text.endswith((".yaml", ".yml")):
            wanted += _listed(Path(text), common)
        else:
            wanted += [_entry(spec, common) for spec in _specs(text)]
    if not wanted:
        raise InspectError("no model is named", "name some, e.g. 'resnet*', or say `all=\"torchvision\"`")
    return once(wanted)


def _entry(spec: str, common: Entry, **own: Any) -> Entry:
    shared = ("inputs", "model_args", "phase", "call")
    values = {**{key: getattr(common, key) for key in shared}, **own}
    phases = ("forward", "train", *PHASES)
    if values["phase"] not in phases:
        raise InspectError(f"no phase is called {values['phase']!r}", f"use one of: {', '.join(phases)}")
    Serving.of(values["phase"], **values.get("step", {}))
    name = values.pop("name", None) or _name(spec, common, values)
    values["model_args"] = _trusting(spec, values["model_args"], common.model_args)
    return Entry(name=name, spec=spec, **values)


def _trusting(spec: str, own: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a row. Whether code from the hub may run is said for all rows, and concerns some."""
    plain = {key: value for key, value in own.items() if key != TRUST}
    asked = common.get(TRUST) and spec.startswith(("hf:", "huggingface:"))
    return {**plain, TRUST: True} if asked else plain


def _name(spec: str, common: Entry, values: dict[str, Any]) -> str:
    """The spec with the method that is called, and the arguments that a list gave it alone."""
    spec = spec if values["call"] == "forward" else f"{spec}.{values['call']}()"
    own = values["model_args"] if values["model_args"] is not common.model_args else {}
    if values["phase"] in PHASES:
        own = {"phase": values["phase"], **values.get("step", {}), **own}
    return f"{spec}({', '.join(f'{key}={value}' for key, value in own.items())})" if own else spec


def _all(source: str) -> list[str]:
    if source not in SOURCES:
        raise InspectError(f"no source is called {source!r}", f"use `all=` {' or '.join(SOURCES)}")
    names = SOURCES[source].names()
    return names if source == "torchvision" else [f"{source}:{name}" for name in names]


def _specs(text: str) -> list[str]:
    source, colon, glob = text.partition(":")
    if not any(character in text for character in "*?[") or (colon and source not in SOURCES):
        return [text]
    glob = glob if colon else text
    names = SOURCES[source if colon else "torchvision"].names()
    matching = [name for name in names if fnmatchcase(name, glob)]
    if not matching:
        raise InspectError(f"no model matches {text!r}", nearest(glob.strip("*"), names))
    return [f"timm:{name}" for name in matching] if colon and source == "timm" else matching


def _listed(file: Path, common: Entry) -> list[Entry]:
    lines = yaml_file(file, "the file must be YAML")
    if not isinstance(lines, list) or not lines:
        raise InspectError(f"{file} holds no list", "write '- resnet50' or '- model: net.py:build'")
    return [entry for line in lines for entry in _line(line, file, common)]


def _line(line: Any, file: Path, common: Entry) -> list[Entry]:
    if isinstance(line, str):
        return [_entry(spec, common) for spec in _specs(line)]
    if not isinstance(line, dict) or not isinstance(line.get("model"), str):
        raise InspectError(f"{file}: {line!r} names no model", "write a spec, or a mapping with model: SPEC")
    unknown = [key for key in line if key not in _KEYS]
    if unknown:
        raise InspectError(f"{file}: unknown key {unknown[0]!r}", f"the keys are: {', '.join(_KEYS)}")
    own: dict[str, Any] = {}
    if "input" in line:
        texts = line["input"] if isinstance(line["input"], list) else [line["input"]]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InspectError(f"{file}: {line['input']!r} is no input", "write 1x3x224x224, or a list")
        own["inputs"] = tuple(texts)
    if "model_args" in line:
        if not isinstance(line["model_args"], dict):
            raise InspectError(f"{file}: {line['model_args']!r} are no arguments", "write {width: 2}")
        refuse_in_file(line["model_args"], str(file))
        own["model_args"] = {str(key): value for key, value in line["model_args"].items()}
    if step := {key: line[key] for key in STEP if key in line}:
        own["step"] = _checked_step(step, file)
    if "phase" in line:
        own["phase"] = line["phase"]
    if "call" in line:
        if not isinstance(line["call"], str):
            raise InspectError(f"{file}: {line['call']!r} is no method", "write the name of one: encode")
        own["call"] = line["call"]
    specs = _specs(line["model"])
    if "name" in line:
        if not isinstance(line["name"], str) or len(specs) > 1:
            raise InspectError(f"{file}: {line['name']!r} cannot name it", "a name is a text, for one model")
        own["name"] = line["name"]
    return [_entry(spec, common, **own) for spec in specs]


def _checked_step(step: dict[str, Any], file: Path) -> dict[str, Any]:
    for key, value in step.items():
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (isinstance(value, str) if key == "kv_cache" else whole):
            raise InspectError(f"{file}: {key} {value!r} is no number", f"write e.g. {key}: 8")
    return step


def once(entries: list[Entry]) -> list[Entry]:
    """Without repetitions; two different entries of one name are an error."""
    kept: dict[str, Entry] = {}
    for entry in entries:
        other = kept.setdefault(entry.name, entry)
        if other != entry:
            raise InspectError(
                f"two different rows would be called {entry.name!r}", "give one of them a name: in the list"
            )
    return list(kept.values())
