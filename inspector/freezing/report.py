"""Freeze stages or parameters of a model, and prove that they rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from inspector.backbones.report import backbone_of, shown, stage_frame, state
from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.core.naming import texts
from inspector.freezing import Plan, Undo, apply, plan, verify
from inspector.freezing.apply import rests
from inspector.freezing.batch import empty
from inspector.freezing.plan import swin
from inspector.freezing.schemes import equivalents
from inspector.models import Model, Recipe, as_recipe
from inspector.models.inputs import Inputs, as_inputs, materialise
from inspector.models.replica import named_state
from inspector.models.small import smallest, with_batch
from inspector.models.subject import lazy, refuse_scripted, with_values
from inspector.models.weights import check_save, save_state
from inspector.reporting.report import Finding, Metric, Report, Section, environment
from inspector.tracing.capture.recorder import describe
from inspector.tracing.capture.state import state_entries

UNITS = {"params": "count", "numel": "count", "share": "share"}


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
    inputs: what the model runs on (see `inspector.tracing`), where it has no default.

    With neither `at` nor `patterns` nothing is changed: the handle describes what is frozen already.
    Of several freezes of one model the last is to be undone first.
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
        raise InspectError(f"`{option}=` says what `at=` counts, and it is not given", "give `at=N`")
    recipe = as_recipe(model, model_args)
    given = as_inputs(inputs) if inputs is not None else None
    if recipe.only_on is not None:
        raise InspectError(f"{recipe.name} does not train: {recipe.only_on[1]}", "name the float model")
    live = with_values(recipe, given, seed, weights)
    refuse_scripted(live)
    if lazy(live):
        raise InspectError("the model has lazy parameters", "run it once before, or give `inputs=`")
    backbone = backbone_of(recipe, live, given, stages, seed) if at is not None else None
    claim = plan(live, backbone, at, scheme, patterns, norm)
    applied = at is not None or bool(patterns)
    undo = apply(live, claim) if applied else Undo()
    return Frozen(live, claim, recipe, given, seed, undo, applied)


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
    save: str | Path | None = None,
) -> Report:
    """`freeze` and its report, with `verify` that of training steps (`ddp`: one of them of two processes).

    save: write the state_dict there, and a manifest with the frozen names beside it.
    """
    if save is not None:
        check_save(save)
    frozen = freeze(
        model, at, scheme=scheme, patterns=patterns, norm=norm, stages=stages, inputs=inputs,
        model_args=model_args, weights=weights, seed=seed,
    )  # fmt: skip
    result = frozen.verify(ddp=ddp) if verify else frozen.report()
    if save is not None:
        result.header += [("saved", str(file)) for file in frozen.save(save)]
    return result


@dataclass
class Frozen:
    """A frozen model: `verify()` proves it, `unfreeze()` takes it back, `save()` writes it."""

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

    def unfreeze(self) -> None:
        """Restore requires_grad, gradients, and the modes of every module as they were."""
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
    ) -> Report:
        """Take real training steps on a copy and compare bytes; the verdict is "pass" or "fail".

        inputs: a batch of two samples or more (one is doubled); without it, the smallest that the
            model accepts. See `inspector.freezing.verify` for the rest.
        """
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise InspectError(
                f"{type(optimizer).__name__} is no torch.optim.Optimizer", "pass the optimizer"
            )
        self._check_names()
        args, kwargs = self._batch(inputs)
        logger.info("training a copy of %s on %s", self.recipe.name, _described(args, kwargs))
        findings = verify(
            self.model,
            self.plan,
            args,
            kwargs,
            seed=self.seed,
            ddp=ddp,
            optimizer=optimizer,
            prepare=prepare,
        )
        result = self.report(findings)
        result.subject["inputs"] = _described(args, kwargs)
        result.header.append(("verified on", ", ".join(result.subject["inputs"])))
        return result

    def _batch(self, inputs: Any) -> tuple[Any, Any]:
        given = as_inputs(inputs) if inputs is not None else self.inputs
        known = with_batch(given, 2) if given is not None else smallest(self.recipe, self.model)
        if known is None:
            raise InspectError(
                f"{self.recipe.name} has no default input to verify it on",
                'give one with `inputs="2x3x224x224"`, or skip the steps with `verify=False`',
            )
        args, kwargs = materialise(known, self.model, self._device(), self.seed)
        if empty(args, kwargs):
            raise InspectError("the input holds no sample", 'give at least two: `inputs="2x3x224x224"`')
        return args, kwargs

    def _check_names(self) -> None:
        """The plan speaks of tensors by name: they must still be there."""
        known = {name for name, _ in named_state(self.model)}
        gone = [name for name in (*self.plan.parameters, *self.plan.trainable) if name not in known]
        if gone:
            message = (
                f"the model has no {gone[0]} any more ({len(gone)} names are gone): it was changed since"
            )
            raise InspectError(message, "unfreeze it, change it, then freeze it again")

    def _resting(self) -> list[str]:
        """The normalisations that are kept in eval mode now."""
        modules = dict(self.model.named_modules(remove_duplicate=False))
        return [p for p in self.plan.norms if p in modules and rests(modules[p])]

    def _device(self) -> str:
        return next((str(p.device) for p in self.model.parameters()), "cpu")

    def save(self, path: str | Path) -> list[Path]:
        """Write the state_dict, and next to it a manifest (JSON) with the frozen names."""
        manifest = {
            "model": self.recipe.name,
            "frozen": list(self.plan.parameters),
            "frozen_buffers": list(self.plan.buffers),
            "kept_in_eval": self._resting(),
            "norm": None if self.plan.found else self.plan.norm,
            "stages": self.plan.stages,
            "seed": self.seed,
            "torch": torch.__version__,
        }
        return save_state(self.model, path, manifest)

    def report(self, findings: Sequence[Finding] = ()) -> Report:
        """What is frozen, with `findings` of a verification."""
        self._check_names()
        failed = any(finding.status == "fail" for finding in findings)
        tables = {"stages": self._stages(), "schemes": self._schemes(), "frozen": self._frozen()}
        tables = {name: frame for name, frame in tables.items() if len(frame)}
        return Report(
            command="freeze",
            subject={
                "name": self.recipe.name,
                "source": self.recipe.source,
                "inputs": [],
                "phase": "train",
                "device": self._device(),
            },
            environment=environment(seed=self.seed),
            metrics=self._metrics(),
            tables=tables,
            findings=list(findings) or [_unverified()],
            verdict="fail" if failed else "pass" if findings else "none",
            header=self._header(),
            sections=self._sections(tables),
        )

    def _header(self) -> list[tuple[str, str]]:
        lines = [("model", f"{self.recipe.name} ({self.recipe.source}, {type(self.model).__name__})")]
        if self.plan.backbone is not None:
            count, total = self.plan.stages, len(self.plan.backbone.stages)
            lines.append(("frozen", f"{count} of {total} stages ({self.plan.backbone.rule})"))
        elif not self.applied:
            lines.append(("frozen", "as the model came: nothing was changed"))
        resting, norms = len(self._resting()), len(self.plan.norms)
        if resting:
            lines.append(("norm", f"{_NORM[self.plan.norm]} ({resting} modules)"))
        elif norms:
            lines.append(("norm", f"{_NORM['train']} ({norms} modules)"))
        return lines

    def _metrics(self) -> dict[str, Metric]:
        entries = [entry for entry in state_entries(self.model) if entry.kind == "parameter"]
        total = sum(entry.numel for entry in entries)
        trainable = sum(entry.numel for entry in entries if entry.trainable)
        buffers = dict(self.model.named_buffers())
        resting = sum(buffers[name].numel() for name in self.plan.buffers if name in buffers)
        metrics = {
            "params": Metric(total, "element", direction="none", label="parameters"),
            "frozen_params": Metric(
                total - trainable, "element", direction="none", label="frozen parameters"
            ),
            "trainable_params": Metric(trainable, "element", direction="none", label="trainable parameters"),
            "frozen_buffers": Metric(resting, "element", direction="none"),
        }
        if self.plan.stages is not None:
            metrics["frozen_stages"] = Metric(self.plan.stages, "count", direction="none")
        return metrics

    def _stages(self) -> pd.DataFrame:
        if self.plan.backbone is None or self.plan.stages is None:
            return pd.DataFrame()
        frame = stage_frame(self.plan.backbone, self.model)
        parts = [stage.parameters for stage in self.plan.backbone.stages]
        parts += [self.plan.backbone.rest] if self.plan.backbone.rest else []
        tensors = dict(self.model.named_parameters(remove_duplicate=False))
        held = {id(tensors[name]) for name in self.plan.parameters}
        frozen = [name for name, tensor in tensors.items() if id(tensor) in held]  # under any name
        return frame.assign(state=[state(names, frozen) for names in parts])

    def _schemes(self) -> pd.DataFrame:
        if self.plan.backbone is None or self.plan.stages is None:
            return pd.DataFrame()
        total = len(self.plan.backbone.stages)
        return pd.DataFrame(equivalents(self.plan.stages, total, swin(self.model)))

    def _frozen(self) -> pd.DataFrame:
        tensors = dict(self.model.named_parameters(remove_duplicate=False))
        rows = [
            {"name": name, "shape": "x".join(map(str, tensors[name].shape)), "numel": tensors[name].numel()}
            for name in self.plan.parameters
        ]
        return pd.DataFrame(rows, columns=["name", "shape", "numel"])

    def _sections(self, tables: dict[str, pd.DataFrame]) -> list[Section]:
        sections = []
        if "stages" in tables:
            sections.append(Section("stages", shown(tables["stages"]), UNITS))
            sections.append(Section("the same in other projects' counting", tables["schemes"]))
        elif "frozen" in tables:
            frame = tables["frozen"]
            note = f"(the first {_SHOWN} of {len(frame)})" if len(frame) > _SHOWN else ""
            sections.append(Section("frozen parameters", frame.head(_SHOWN), UNITS, note))
        return sections


_SHOWN = 20
_NORM = {
    "freeze": "weight, bias and statistics frozen, also after model.train()",
    "eval": "statistics frozen, weight and bias train",
    "train": "left in train mode",
}


def _unverified() -> Finding:
    return Finding("verification", "skip", "", "not verified (--no-verify): nothing was trained")


def _described(args: Any, kwargs: Any) -> list[str]:
    return [describe(value) for value in args] + [f"{key}={describe(value)}" for key, value in kwargs.items()]
