"""A model that is there as one row of a regression table: what the pytest plugin compares."""

from __future__ import annotations

from typing import Any

from torch import nn

from inspector.models import Model, as_recipe
from inspector.profiling.report import report as profile_report
from inspector.profiling.run import trace
from inspector.regress.sweep.row import Entry, row_of_trace, settled
from inspector.regress.sweep.table import report
from inspector.reporting.report import Report


def row_of(
    model: Model,
    inputs: Any,
    name: str,
    *,
    phase: str = "forward",
    device: str | None = None,
    seed: int = 0,
    model_args: dict[str, Any] | None = None,
    call: str | None = None,
) -> tuple[Report, dict[str, Any]]:
    """The profile of `model`, and the plain content of a table whose only row is called `name`."""
    recipe = as_recipe(model, model_args, call)
    found = trace(recipe, inputs, phase=phase, device=device, seed=seed)
    spec = f"(a live {type(model).__name__})" if isinstance(model, nn.Module) else recipe.name
    entry = Entry(name, spec, None, dict(model_args or {}), phase, recipe.call)
    built = settled(recipe, recipe.shapes(seed=seed), inputs, seed)
    one = row_of_trace(entry, recipe, built, found)
    table = report([one], [dict(one.row)], [], name, None, seed)
    return profile_report(found), table.to_dict()
