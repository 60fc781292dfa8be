"""The state ledger: every parameter and buffer of a model, reconciled with its state_dict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from inspector.core.errors import first_line
from inspector.models import Recipe, as_recipe
from inspector.models.modes import mode_sensitive
from inspector.models.subject import lazy
from inspector.profiling.ledger import ledger_report
from inspector.profiling.views.state import stored_otherwise
from inspector.reporting.numbers import counted
from inspector.reporting.report import Finding, Report, Section
from inspector.reporting.tables import Table
from inspector.tracing import _torch
from inspector.tracing.beside import quantised as is_quantised
from inspector.tracing.capture.state import state_entries
from inspector.tracing.record import StateEntry


def of_model(
    model: str | nn.Module | Recipe, model_args: Mapping[str, Any] | None, top: int | None
) -> Report:
    """The parameters and buffers of a model that is built on meta."""
    recipe = as_recipe(model, model_args)
    built = recipe.shapes()
    entries = state_entries(built)
    modes = Table.of(mode_sensitive(built), ["module", "type", "mode", "train", "eval"])
    result = ledger_report(recipe.name, recipe.source, entries, top)
    result.tables["modes"] = modes
    if len(modes):
        result.sections.append(Section("modules that train() and eval() change", _summarised(modes)))
    result.findings += reconcile(built, entries)
    if lazy(built):
        note = "lazy parameters have no shape yet and count as 0 here"
        result.findings.append(Finding("lazy", "warn", "", note))
    if any(entry.kind == "packed" for entry in entries):
        note = "quantized modules pack their weights, which no optimizer updates: they are not parameters"
        result.findings.append(Finding("packed", "warn", "", note))
    result.findings += [Finding("provenance", "warn", "", note) for note in recipe.notes]
    result.findings += recipe.checks(entries)
    if stored := stored_otherwise(entries):
        result.findings.append(Finding("stored", "warn", "", stored))
    if any(f.status == "fail" for f in result.findings):
        result.verdict = "fail"
    result.header.insert(1, ("class", type(built).__name__))
    return result


def _summarised(modes: Table) -> Table:
    """One row for each class and behaviour, with the number of modules and the first one's path."""
    paths: dict[tuple[Any, ...], list[str]] = {}
    for module, *behaviour in modes.rows():
        paths.setdefault(tuple(behaviour), []).append(module)
    rows = [(kind, len(names), *behaviour, names[0]) for (kind, *behaviour), names in paths.items()]
    return Table.of(rows, ("type", "modules", "mode", "train", "eval", "first"))


def reconcile(model: nn.Module, entries: tuple[StateEntry, ...]) -> list[Finding]:
    """Compare the ledger with `model.state_dict()`, key by key and in bytes.

    Tied names appear in state_dict once each, buffers that are not persistent do not appear, modules
    may add an extra state; every other difference (a hook that renames, a key that the model makes
    up, another shape or dtype) fails.
    """
    try:
        saved = dict(model.state_dict(keep_vars=True))
    except Exception as error:  # a hook or an override of the user's own
        return [Finding("state_dict", "fail", "", f"state_dict() fails: {first_line(error)}")]
    tensors = {
        name: value
        for name, value in saved.items()
        if isinstance(value, Tensor) and not name.endswith(_torch.EXTRA_STATE)
    }
    extra = sorted(name for name in saved if name not in tensors)
    entered = {name: e for e in entries if e.kind != "packed" for name in (e.name, *e.aliases)}
    held = dict(_held(model))
    hidden = {name for name, (_, persistent) in held.items() if not persistent}
    missing = sorted(name for name in entered if name not in tensors and name not in hidden)
    packed = {e.name for e in entries if e.kind == "packed"}
    scales = set(_beside(model, tensors))
    added = sorted(name for name in tensors if name not in entered and name not in packed | scales)
    unequal = sorted(
        name
        for name in tensors
        if name in held and not is_lazy(tensors[name]) and _form(tensors[name]) != _form(held[name][0])
    )
    ties = sum(len(entry.aliases) for entry in entries)
    parts = [counted(len(tensors), "tensor")]
    if ties:
        parts.append(f"{ties} tied names repeat a storage")
    if hidden:
        parts.append(f"{len(hidden)} buffers are not persistent")
    if scales:
        parts.append(f"{len(scales)} hold how a quantised parameter is read")
    if extra:
        parts.append(f"{len(extra)} entries are not tensors ({', '.join(extra[:3])})")
    wrong = [
        ("is missing from state_dict", "are missing from state_dict", missing),
        ("is in state_dict only", "are in state_dict only", [] if packed else added),
        ("has another shape or dtype in state_dict", "have another shape or dtype in state_dict", unequal),
    ]
    faults = [
        Finding(
            "state_dict",
            "fail",
            names[0],
            f"{counted(len(names), 'tensor')} {what[len(names) > 1]}",
            {"names": names},
        )
        for *what, names in wrong
        if names
    ]
    if faults:
        return faults
    return [Finding("state_dict", "pass", "", f"agrees with state_dict(): {'; '.join(parts)}")]


def _beside(model: nn.Module, names: Iterable[str]) -> Iterator[str]:
    """The keys that a module adds for its quantised parameters: "fc.weight.absmax", "fc.SCB"."""
    quantised = {
        path
        for path, module in model.named_modules(remove_duplicate=False)
        for parameter in _torch.parameters_of(module).values()
        if parameter is not None and is_quantised(module, parameter)
    }
    own = {name for name, _ in _held(model)}
    for name in names:
        if name not in own and any(name.startswith(f"{path}." if path else "") for path in quantised):
            yield name


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.shape), tensor.dtype


def _held(model: nn.Module) -> Iterator[tuple[str, tuple[Tensor, bool]]]:
    """Every name in the registries: its tensor (tied names may differ in shape), and persistent or
    not."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name, tensor in (*_torch.parameters_of(module).items(), *_torch.buffers_of(module).items()):
            if tensor is not None:
                persistent = name not in _torch.non_persistent_of(module)
                yield f"{path}.{name}" if path else name, (tensor, persistent)
