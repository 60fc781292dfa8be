"""What one call of `init` works on, and its verdicts: a model verified as it is, or initialised first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from inspector.core.errors import InspectError
from inspector.initialization import parametrized, targets
from inspector.initialization.apply import Applied, apply
from inspector.initialization.builds import builds
from inspector.initialization.checks import SEED
from inspector.initialization.checks.twice import Filled, written_twice
from inspector.initialization.expect import Outcome, auto, expect
from inspector.initialization.schemes import Choice
from inspector.initialization.writes import written
from inspector.models import Recipe, as_recipe
from inspector.models.header import is_checkpoint
from inspector.models.inputs import as_inputs
from inspector.models.subject import refuse_scripted, with_values
from inspector.reporting.checks import examine
from inspector.reporting.report import Finding
from inspector.tracing import _torch


@dataclass
class Job:
    """What one call works on: a live model, or the tensors of a file."""

    name: str
    source: str
    seed: int
    model: nn.Module | None = None
    recipe: Recipe | None = None
    inputs: Any = None
    tensors: dict[str, Any] = field(default_factory=dict)
    loaded: bool = False


def job_of(
    model: Any, model_args: Mapping[str, Any] | None, seed: int, inputs: Any, weights: Any, expected: Any
) -> Job:
    if isinstance(model, Path) or (isinstance(model, str) and is_checkpoint(model)):
        return _file(Path(model), expected, {"inputs": inputs, "weights": weights, "model_args": model_args})
    if isinstance(model, nn.Module) and model_args:
        raise InspectError("a finished model takes no `model_args=`", "leave them out")
    recipe = as_recipe(model, model_args)
    chosen = as_inputs(inputs) if inputs is not None else None
    live = with_values(recipe, chosen, seed, weights)
    refuse_scripted(live)
    return Job(recipe.name, recipe.source, seed, live, recipe, chosen, loaded=weights is not None)


def _file(path: Path, expected: str | None, options: Mapping[str, Any]) -> Job:
    from inspector.models.weights import load_tensors

    if expected is None:
        raise InspectError(
            f"{path} is a file: nothing can be applied to it", 'verify it with `expect="auto"`'
        )
    for option, content in options.items():
        if content:
            raise InspectError(f"a checkpoint takes no `{option}=`", "leave it out")
    return Job(path.name, "checkpoint", 0, tensors=load_tensors(path))


def verified(job: Job, choice: Choice | None, layers: list[str] | None) -> tuple[Outcome, int, int]:
    """The outcome, and how many layers were judged of how many."""
    live = job.model
    everywhere = targets.of_model(live) if live is not None else targets.of_tensors(job.tensors)
    everything = choice is None or choice.scheme.name == "default"
    selected = targets.chosen(everywhere, layers, everything)
    outcome = auto(selected) if choice is None else expect(selected, choice)
    if not outcome.rows:
        raise InspectError(
            "no tensor of the selected layers has a law under this scheme", "name other layers, or `bias=`"
        )
    if live is None:
        message = "a file does not tell groups, transposition and embeddings: fans are those of plain layers"
        outcome.findings.append(Finding("checkpoint", "warn", "", message))
    outcome.findings += _construction(job)
    return outcome, len({t.layer for t in selected}), len({t.layer for t in everywhere})


def _construction(job: Job) -> list[Finding]:
    """Whether the seed decides the weights with which the model is built, and none is drawn twice."""
    recipe = job.recipe
    if recipe is None or not recipe.rebuilds or job.loaded:
        return []
    writes = written(lambda: recipe.build("cpu", job.seed))
    assert isinstance(writes.result, nn.Module)
    twice = written_twice(Filled(writes.result, writes))
    return twice + examine(SEED, builds(lambda seed: recipe.build("cpu", seed), job.seed))


def applied_and_verified(job: Job, choice: Choice, layers: list[str] | None) -> tuple[Applied, Outcome]:
    """Apply, verify that the seed decides the bytes, and verify what was applied."""
    model = job.model
    assert model is not None
    applied: list[Applied] = []

    def run(seed: int) -> nn.Module:
        applied.append(apply(model, choice, layers, seed))
        return _written(applied[-1])

    writes = written(lambda: run(job.seed))
    twice = written_twice(Filled(model, writes, explicit_only=False))
    repeated = examine(SEED, builds(run, job.seed))
    run(job.seed)
    outcome = expect(applied[0].targets, choice)
    outcome.findings += [*twice, *repeated, *applied[0].findings]
    return applied[0], outcome


def _written(applied: Applied) -> nn.Module:
    """The parameters that were written, as a module of their own, under the names of their tensors."""
    holder = nn.Module()
    for target in applied.targets:
        assert target.module is not None
        for number, tensor in enumerate(parametrized.written(target.module, target.attribute)):
            name = target.name if not number else f"{target.name} ({number + 1})"
            _torch.parameters_of(holder)[name] = tensor  # type: ignore[assignment]  # names hold dots
    return holder
