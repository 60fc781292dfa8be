"""The ordered stages of a model, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from inspector.backbones import Backbone, find_stages
from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.models import Model, Recipe, as_recipe
from inspector.models.subject import lazy
from inspector.profiling.run import compiler_left_out, trace
from inspector.reporting.report import Finding, Report, Section, environment, metrics
from inspector.reporting.tables import Table
from inspector.tracing.capture.state import state_entries
from inspector.tracing.record import Trace

_SHOWN = 6
"""Up to this many modules of a stage are printed by name; of more, the first and the last."""


def stages(
    model: Model,
    inputs: Any = None,
    *,
    stages: Sequence[Sequence[str]] | None = None,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Report:
    """List the ordered stages of `model`'s backbone, and which rule found them.

    stages: your own map, the globs of one stage after another. The rest as in `trace`.

    Raises InspectError where no stages can be found.
    """
    with compiler_left_out(model, model_args):
        recipe = as_recipe(model, model_args)
        built = recipe.shapes(seed=seed)
        ran = recipe if lazy(built) else recipe.first(built, recipe.place)
        backbone, forward = _traced(ran, built, inputs, stages, seed)
    frame = stage_frame(backbone, built)
    notes = forward.notes if forward and forward.device != "meta" else ()
    params = sum(entry.numel for entry in state_entries(built) if entry.kind == "parameter")
    rest = frame["params"][-1] if backbone.rest else 0
    return Report(
        command="stages",
        subject={
            "name": recipe.name,
            "source": recipe.source,
            "inputs": list(forward.inputs) if forward else [],
            "phase": forward.phase if forward else None,
            "device": forward.device if forward else None,
        },
        environment=environment(seed=seed),
        metrics=metrics({"stages": len(backbone.stages), "params": params, "rest_params": rest}),
        tables={"stages": frame},
        header=[
            ("model", f"{recipe.name} ({recipe.source}, {type(built).__name__})"),
            *([("input", " ".join(forward.inputs))] if forward else []),
            ("rule", backbone.rule),
        ],
        findings=[Finding("provenance", "warn", "", note) for note in notes],
        sections=[Section("stages", shown(frame), _note(built))],
    )


def backbone_of(
    recipe: Recipe,
    model: nn.Module,
    inputs: Any = None,
    given: Sequence[Sequence[str]] | None = None,
    seed: int = 0,
) -> Backbone:
    """The stages of `model`, which `recipe` built, found with a forward pass that leaves it untouched.

    Where there is nothing to run it with, only the rules that need no forward can hold. A map that is
    `given` needs none either: then a pass that fails costs no more than the resolutions.
    """
    return _traced(recipe, model, inputs, given, seed)[0]


def _traced(
    recipe: Recipe, model: nn.Module, inputs: Any, given: Sequence[Sequence[str]] | None, seed: int
) -> tuple[Backbone, Trace | None]:
    """The stages, and the pass that found them where one could run."""
    forward: Trace | None = None
    if inputs is None and recipe.defaults(model, "forward") is None:
        return find_stages(model, None, given), None
    try:
        forward = trace(recipe, inputs, seed=seed)
    except InspectError as error:
        if not given:
            raise
        logger.info("no resolutions: %s", error.message)
    return find_stages(model, forward, given), forward


def stage_frame(backbone: Backbone, model: nn.Module) -> Table:
    """A row for each stage, then one without index for the parameters in none. A tied tensor counts
    where its first name is."""
    numel = {entry.name: entry.numel for entry in state_entries(model) if entry.kind == "parameter"}
    total = sum(numel.values())
    rows = [
        (stage.index, " ".join(stage.members), stage.parameters, _size(stage.resolution))
        for stage in backbone.stages
    ]
    if backbone.rest:
        rows.append((None, "", backbone.rest, None))  # type: ignore[arg-type]
    return Table(
        {
            "index": [row[0] for row in rows],
            "modules": [row[1] for row in rows],
            "params": [sum(numel.get(name, 0) for name in row[2]) for row in rows],
            "share": [sum(numel.get(name, 0) for name in row[2]) / max(total, 1) for row in rows],
            "resolution": [row[3] for row in rows],
        }
    )


def state(names: Sequence[str], frozen: Sequence[str]) -> str:
    """What a stage with the parameters `names` does in training, `frozen` being all frozen ones."""
    inside = len(set(names) & set(frozen))
    if not names:
        return "no parameters"
    return "frozen" if inside == len(names) else "partly frozen" if inside else "trains"


def _size(resolution: tuple[int, ...] | None) -> str | None:
    return None if resolution is None else "x".join(map(str, resolution))


def shown(frame: Table) -> Table:
    """For people: long lists of modules by their ends."""
    index = ["rest" if value is None else str(value) for value in frame["index"]]
    return frame.assign(index=index, modules=[_ends(text.split()) for text in frame["modules"]])


def _ends(names: list[str]) -> str:
    if len(names) <= _SHOWN:
        return " ".join(names)
    return f"{names[0]} to {names[-1]} ({len(names)} modules)"


def _note(model: nn.Module) -> str:
    tied = any(entry.aliases for entry in state_entries(model) if entry.kind == "parameter")
    return "(a tied tensor is counted where its first name is)" if tied else ""
