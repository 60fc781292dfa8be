"""One row of a regression table: a model counted, as plain JSON values."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from inspector.backbones import find_stages
from inspector.backbones.report import stage_frame
from inspector.core.collection import paused
from inspector.core.errors import InspectError, first_line
from inspector.core.log import logger
from inspector.models import Recipe, as_recipe
from inspector.models.inputs import as_inputs
from inspector.models.subject import lazy, materialised
from inspector.profiling.report import report
from inspector.profiling.run import compiler_left_out, trace
from inspector.profiling.views.modules import LAYERS, ancestors
from inspector.regress.content import stage_line
from inspector.tracing.describe import describe
from inspector.tracing.record import Trace
from inspector.tracing.subclass import parts, wraps


@dataclass(frozen=True)
class Entry:
    """One model of a table: the row's name, the spec that builds it, and what it is run with."""

    name: str
    spec: str
    inputs: tuple[str, ...] | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    phase: str = "forward"
    call: str = "forward"
    step: Mapping[str, Any] = field(default_factory=dict)  # context, batch, ... of a prefill or a decode

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for a file."""
        return {**asdict(self), "inputs": None if self.inputs is None else list(self.inputs)}


@dataclass(frozen=True)
class Counted:
    """What a table says about one model: its row, and its rows of the tables that explain it."""

    row: dict[str, Any]
    layers: list[dict[str, Any]] = field(default_factory=list)
    ops: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def error(self) -> str:
        return str(self.row["error"])


def count(entry: Entry, device: str | None = None, seed: int = 0) -> Counted:
    """Count the entry's model; one that fails becomes a row with its error."""
    try:
        with paused(), compiler_left_out(entry.spec, entry.model_args):
            recipe = as_recipe(entry.spec, entry.model_args, entry.call)
            with warnings.catch_warnings(record=True) as heard:
                counted = _counted(entry, recipe, device, seed)
        for warning in heard:
            logger.info("%s: %s", entry.name, warning.message)
        return counted
    except InspectError as error:
        message = f"{error.message} ({error.hint})" if error.hint else error.message
    except Exception as error:
        logger.info("%s failed", entry.name, exc_info=True)
        message = f"{type(error).__name__}: {first_line(error)}"
    return failed(entry, " ".join(message.split()))


def _counted(entry: Entry, recipe: Recipe, device: str | None, seed: int) -> Counted:
    """One model is built, run and listed, where it is the one that would be run."""
    inputs = None if entry.inputs is None else list(entry.inputs)
    built = recipe.shapes(seed=seed)
    model = settled(recipe, built, inputs, seed)
    alike = model is built and device is None and entry.call == "forward" and not entry.step
    ran = recipe.first(model, recipe.place) if alike else recipe
    record = trace(ran, inputs, phase=entry.phase, device=device, seed=seed, **entry.step)
    return row_of_trace(entry, recipe, model, record)


def failed(entry: Entry, error: str) -> Counted:
    """The row of a model that could not be counted."""
    asked = {"inputs": list(entry.inputs or ()), "phase": entry.phase, "device": None, "notes": []}
    return Counted({**_asked(entry, "", ""), **asked, "error": error, "lower_bound": []})


def settled(recipe: Recipe, model: nn.Module, inputs: Any, seed: int) -> nn.Module:
    """The model as a row lists it: lazy parameters have the shapes that `inputs` give them."""
    if not lazy(model):
        return model
    chosen = as_inputs(inputs) if inputs is not None else None
    return materialised(recipe, recipe.inputs(model, chosen), seed)


def row_of_trace(entry: Entry, recipe: Recipe, built: nn.Module, found: Trace) -> Counted:
    """The row of a pass over the model that `recipe` has built."""
    made = report(found)
    saved = sorted(_saved(built))
    layers, ops = made.tables["layers"], made.tables["ops"]
    row = {
        **_asked(entry, recipe.source, found.modules[0].type if found.modules else ""),
        "inputs": list(found.inputs),
        "phase": found.phase,
        "device": found.device,
        "notes": list(found.notes),
        "error": "",
        "lower_bound": [name for name, metric in made.metrics.items() if metric.lower_bound],
        **{name: metric.value for name, metric in made.metrics.items()},
        "ops_digest": digest(f"{op} {calls}" for op, calls in sorted(zip(ops["op"], ops["calls"]))),
        "state_keys": len(saved),
        "state_digest": digest(saved),
    }
    stages = _stages(recipe, built, found)
    row["stages"] = sum(1 for stage in stages if stage["index"] is not None) if stages else None
    row["stages_digest"] = digest(map(stage_line, stages)) if stages else None
    return Counted(
        row,
        [{"model": entry.name, **dict(zip(LAYERS, line))} for line in layers.rows()],
        [{"model": entry.name, "op": op, "calls": int(n)} for op, n in zip(ops["op"], ops["calls"])],
        [{"model": entry.name, **stage} for stage in stages],
    )


def _asked(entry: Entry, source: str, kind: str) -> dict[str, Any]:
    return {
        "model": entry.name,
        "spec": entry.spec,
        "given_inputs": None if entry.inputs is None else list(entry.inputs),
        "model_args": dict(entry.model_args),
        "call": entry.call,
        "serving": dict(entry.step),
        "source": source,
        "class": kind,
    }


def digest(lines: Iterable[str]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of lines."""
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _saved(model: nn.Module) -> Iterable[str]:
    """A line for each key of the state dict: name, shape, dtype, and what a wrapper holds inside."""
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            inside = f" as {[describe(part) for part in parts(value)]}" if wraps(value) else ""
            yield f"{name} {tuple(value.shape)} {value.dtype}{inside}"
        else:
            yield f"{name} {type(value).__name__}"


def _stages(recipe: Recipe, model: nn.Module, found: Trace) -> list[dict[str, Any]]:
    """The stages with their parameters and MACs; none where no rule finds any."""
    try:
        backbone = find_stages(model, found if found.phase == "forward" else None)
    except InspectError as error:
        logger.info("no stages of %s: %s", recipe.name, error.message)
        return []
    members = [stage.members for stage in backbone.stages]
    macs = [0] * (len(members) + 1)  # the last: outside of all stages
    owner = {member: index for index, group in enumerate(members) for member in group}
    for op in found.ops:
        index = next((owner[path] for path in ancestors(op.module) if path in owner), -1)
        macs[index] += op.macs or 0
    frame = stage_frame(backbone, model)
    return [
        {
            "index": None if index >= len(members) else index,
            "modules": str(line["modules"]),
            "params": int(line["params"]),
            "macs": macs[index],
        }
        for index, line in enumerate(frame.records())
    ]
