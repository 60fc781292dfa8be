"""A frozen model as a live handle: verify it, undo the freeze, save it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.backbones.report import backbone_of
from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.core.naming import texts
from inspector.freezing import Plan, Undo, apply, plan, verify
from inspector.freezing.apply import kept_in_eval
from inspector.freezing.batch import empty
from inspector.freezing.report import report
from inspector.freezing.training import default_steps
from inspector.models import Model, Recipe, as_recipe
from inspector.models.device import device_of
from inspector.models.inputs import Inputs, as_inputs, materialise
from inspector.models.replica import named_state
from inspector.models.small import smallest, with_batch
from inspector.models.subject import trainable
from inspector.profiling.run import compiler_left_out
from inspector.reporting.report import Finding, Report
from inspector.tracing.describe import describe_call


def freeze(
    model: Model,
    at: int | None = None,
    *,
    scheme: str = "maskrcnn",
    patterns: Sequence[str] = (),
    norm: str = "freeze",
    stages: Sequence[Sequence[str]] | None = None,
    inputs: Any = None,
    model_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
) -> Frozen:
    """Freeze the first stages of `model`, or the parameters that `patterns` match, in place.

    model: a spec ("resnet50", "timm:...", "file.py:build"), built on the CPU from `seed`, or an
        nn.Module. A DistributedDataParallel wrap is refused: freeze before it.
    at: how many stages from the stem on, counted as `scheme` does (maskrcnn: range(at)).
    patterns: globs over parameter and buffer paths.
    norm: batch norms of the frozen part: "freeze" fixes weight, bias and statistics, "eval" the
        statistics only, "train" leaves them in train mode as requires_grad=False alone does.
    stages: your own stages, each a list of globs; without it they are found (see `inspector.stages`).
    inputs: what the model runs on (see `inspector.trace`), where it has no default.

    With neither `at` nor `patterns` nothing is changed: the handle describes what is frozen already.
    Undo several freezes of one model in reverse order.
    Raises InspectError for an `at` outside the stages and for a pattern that matches nothing.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise InspectError(
            "freezing after the DistributedDataParallel wrap breaks its gradient reduction",
            "freeze model.module first, then wrap it",
        )
    patterns = texts(patterns, "patterns")
    stages = [texts(stage, "stages") for stage in stages] if stages else None
    if at is None and (stages or scheme != "maskrcnn"):
        option = "stages" if stages else "scheme"
        raise InspectError(f"`{option}=` says how `at=` counts, but there is no `at=`", "give `at=N`")
    recipe = as_recipe(model, model_args)
    chosen = as_inputs(inputs) if inputs is not None else None
    if recipe.only_on is not None:
        raise InspectError(f"{recipe.name} does not train: {recipe.only_on[1]}", "name the float model")
    live = trainable(recipe, chosen, seed, weights)
    backbone = backbone_of(recipe, live, chosen, stages, seed) if at is not None else None
    claim = plan(live, backbone, at, scheme, patterns, norm)
    applied = at is not None or bool(patterns)
    undo = apply(live, claim) if applied else Undo()
    return Frozen(live, claim, recipe, chosen, seed, undo, applied)


def freeze_and_verify(
    model: Model,
    inputs: Any = None,
    *,
    at: int | None = None,
    scheme: str = "maskrcnn",
    patterns: Sequence[str] = (),
    norm: str = "freeze",
    stages: Sequence[Sequence[str]] | None = None,
    model_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    seed: int = 0,
    verify: bool = True,
    ddp: bool = True,
    steps: int | None = None,
    strict: bool = False,
    save: str | Path | None = None,
) -> Report:
    """`freeze` and its report, with `verify` that of real training steps (`ddp`: also one of two processes).

    steps: training steps of each optimizer (see `Frozen.verify`). strict: what cannot be verified fails.
    save: write the state_dict there, and a manifest with the frozen names beside it.
    """
    if save is not None:
        from inspector.models.weights import check_save

        check_save(save)
    with compiler_left_out(model, model_args):
        frozen = freeze(
            model, at, scheme=scheme, patterns=patterns, norm=norm, stages=stages, inputs=inputs,
            model_args=model_args, weights=weights, seed=seed,
        )  # fmt: skip
        result = frozen.verify(ddp=ddp, steps=steps, strict=strict) if verify else frozen.report()
    if save is not None:
        result.header += [("saved", str(file)) for file in frozen.save(save)]
    return result


@dataclass
class Frozen:
    """A frozen model: `verify()` checks it with real training steps, `unfreeze()` undoes it, `save()`
    writes it; `report()` says what is frozen. A context manager unfreezes at its end."""

    model: nn.Module
    plan: Plan
    recipe: Recipe
    inputs: Inputs | None
    seed: int
    undo: Undo
    applied: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The frozen parameters, under all of their names."""
        return self.plan.parameters

    @property
    def norms_in_eval(self) -> list[str]:
        """The normalisation layers that are kept in eval mode now."""
        modules = dict(self.model.named_modules(remove_duplicate=False))
        return [p for p in self.plan.norms if p in modules and kept_in_eval(modules[p])]

    def unfreeze(self) -> None:
        """Restore requires_grad, gradients, and the mode of every module."""
        self.undo()

    def __enter__(self) -> Frozen:
        return self

    def __exit__(self, *error: object) -> None:
        self.unfreeze()

    def verify(
        self,
        inputs: Any = None,
        *,
        ddp: bool = True,
        optimizer: torch.optim.Optimizer | None = None,
        prepare: str = "",
        steps: int | None = None,
        strict: bool = False,
    ) -> Report:
        """Take real training steps on a copy and compare bytes; the verdict is "pass" or "fail".

        inputs: a batch of two samples or more (one is doubled); without it, the smallest that the
            model accepts. See `inspector.freezing.verify` for the rest.
        """
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise InspectError(
                f"{type(optimizer).__name__} is no torch.optim.Optimizer", "pass the optimizer"
            )
        if steps is not None and (not isinstance(steps, int) or isinstance(steps, bool) or steps < 1):
            raise InspectError(f"{steps!r} training steps cannot be taken", "give 1 or more, e.g. `steps=8`")
        self._check_names()
        args, kwargs = self._batch(inputs)
        logger.info("training a copy of %s on %s", self.recipe.name, describe_call(args, kwargs))
        count = default_steps(self.model) if steps is None else steps
        options: dict[str, Any] = {"seed": self.seed, "ddp": ddp, "optimizer": optimizer, "prepare": prepare}
        findings = verify(self.model, self.plan, args, kwargs, steps=count, strict=strict, **options)
        verified = self.report(findings)
        verified.subject["inputs"] = describe_call(args, kwargs)
        verified.header.append(("verified on", ", ".join(verified.subject["inputs"])))
        verified.header.append(("steps", f"{count} of each optimizer, an eval phase in between (--steps)"))
        return verified

    def report(self, findings: Sequence[Finding] = ()) -> Report:
        """What is frozen, with the `findings` of a verification."""
        self._check_names()
        return report(self, findings)

    def _batch(self, inputs: Any) -> tuple[Any, Any]:
        chosen = as_inputs(inputs) if inputs is not None else self.inputs
        if chosen is not None and chosen.has_tensors:
            batch: Inputs | None = with_batch(chosen, 2)
        else:
            batch = smallest(self.recipe, self.model, values=chosen)
        if batch is None:
            raise InspectError(
                f"{self.recipe.name} has no default input to verify it on",
                'give one with `inputs="2x3x224x224"`, or skip the steps with `verify=False`',
            )
        args, kwargs = materialise(batch, self.model, device_of(self.model), self.seed)
        if empty(args, kwargs):
            raise InspectError("the input holds no sample", 'give at least two: `inputs="2x3x224x224"`')
        return args, kwargs

    def _check_names(self) -> None:
        """Refuse a model that has lost tensors that the plan names."""
        names = {name for name, _ in named_state(self.model)}
        gone = [name for name in (*self.plan.parameters, *self.plan.trainable) if name not in names]
        if gone:
            message = f"the model no longer has {gone[0]} ({len(gone)} names are gone)"
            raise InspectError(message, "unfreeze a model before changing it, then freeze it again")

    def save(self, path: str | Path) -> list[Path]:
        """Write the state_dict, and next to it a manifest (JSON) with the frozen names."""
        from inspector.models.weights import save_state

        manifest = {
            "model": self.recipe.name,
            "frozen": list(self.plan.parameters),
            "frozen_buffers": list(self.plan.buffers),
            "kept_in_eval": self.norms_in_eval,
            "norm": None if self.plan.observed else self.plan.norm,
            "stages": self.plan.stages,
            "seed": self.seed,
            "torch": torch.__version__,
        }
        return save_state(self.model, path, manifest)
