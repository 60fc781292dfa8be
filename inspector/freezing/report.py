"""The report of a frozen model: what is frozen, by stage and by name, and how others count it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inspector.backbones.report import shown, stage_frame, state
from inspector.freezing.plan import swin
from inspector.freezing.schemes import equivalents
from inspector.models.device import device_of
from inspector.reporting.report import Finding, Metric, Report, Section, environment, metric
from inspector.reporting.tables import Table
from inspector.tracing.capture.state import state_entries

if TYPE_CHECKING:
    from inspector.freezing.handle import Frozen

_SHOWN = 20
_UNVERIFIED = "not verified: nothing was trained"
_NORM = {
    "freeze": "weight, bias and statistics frozen, also after model.train()",
    "eval": "statistics frozen, weight and bias train",
    "train": "left in train mode",
}


def report(frozen: Frozen, findings: Sequence[Finding]) -> Report:
    """What is frozen, with the findings of a verification (none: it was not verified)."""
    failed = any(finding.status == "fail" for finding in findings)
    tables = {"stages": _stages(frozen), "schemes": _schemes(frozen), "frozen": _frozen(frozen)}
    tables = {name: frame for name, frame in tables.items() if len(frame)}
    return Report(
        command="freeze",
        subject={
            "name": frozen.recipe.name,
            "source": frozen.recipe.source,
            "inputs": [],
            "phase": "train",
            "device": device_of(frozen.model),
        },
        environment=environment(seed=frozen.seed),
        metrics=_metrics(frozen),
        tables=tables,
        findings=list(findings) or [Finding("verification", "skip", "", _UNVERIFIED)],
        verdict="fail" if failed else "pass" if findings else "none",
        header=_header(frozen),
        sections=_sections(tables),
    )


def _header(frozen: Frozen) -> list[tuple[str, str]]:
    recipe, claim = frozen.recipe, frozen.plan
    lines = [("model", f"{recipe.name} ({recipe.source}, {type(frozen.model).__name__})")]
    if claim.backbone is not None:
        total = len(claim.backbone.stages)
        lines.append(("frozen", f"{claim.stages} of {total} stages ({claim.backbone.rule})"))
    elif not frozen.applied:
        lines.append(("frozen", "as the model came: nothing was changed"))
    in_eval, norms = len(frozen.norms_in_eval), len(claim.norms)
    if in_eval:
        lines.append(("norm", f"{_NORM[claim.norm]} ({in_eval} modules)"))
    elif norms:
        lines.append(("norm", f"{_NORM['train']} ({norms} modules)"))
    return lines


def _metrics(frozen: Frozen) -> dict[str, Metric]:
    entries = [entry for entry in state_entries(frozen.model) if entry.kind == "parameter"]
    total = sum(entry.numel for entry in entries)
    trainable = sum(entry.numel for entry in entries if entry.trainable)
    buffers = dict(frozen.model.named_buffers())
    frozen_buffers = sum(buffers[name].numel() for name in frozen.plan.buffers if name in buffers)
    values = {
        "params": total,
        "frozen_params": total - trainable,
        "trainable_params": trainable,
        "frozen_buffers": frozen_buffers,
    }
    if frozen.plan.stages is not None:
        values["frozen_stages"] = frozen.plan.stages
    return {name: metric(name, value, direction="none") for name, value in values.items()}


def _stages(frozen: Frozen) -> Table:
    backbone = frozen.plan.backbone
    if backbone is None or frozen.plan.stages is None:
        return Table({})
    frame = stage_frame(backbone, frozen.model)
    parts = [stage.parameters for stage in backbone.stages]
    parts += [backbone.rest] if backbone.rest else []
    tensors = frozen.model.named_parameters(remove_duplicate=False)
    names = [name for name, tensor in tensors if not tensor.requires_grad]  # also what was frozen before
    return frame.assign(state=[state(part, names) for part in parts])


def _schemes(frozen: Frozen) -> Table:
    if frozen.plan.backbone is None or frozen.plan.stages is None:
        return Table({})
    total = len(frozen.plan.backbone.stages)
    return Table.of(equivalents(frozen.plan.stages, total, swin(frozen.model)))


def _frozen(frozen: Frozen) -> Table:
    tensors = dict(frozen.model.named_parameters(remove_duplicate=False))
    rows = [
        {"name": name, "shape": "x".join(map(str, tensors[name].shape)), "numel": tensors[name].numel()}
        for name in frozen.plan.parameters
    ]
    return Table.of(rows, ("name", "shape", "numel"))


def _sections(tables: dict[str, Table]) -> list[Section]:
    sections = []
    if "stages" in tables:
        sections.append(Section("stages", shown(tables["stages"])))
        sections.append(Section("the same in other projects' counting", tables["schemes"]))
    elif "frozen" in tables:
        frame = tables["frozen"]
        note = f"(the first {_SHOWN} of {len(frame)})" if len(frame) > _SHOWN else ""
        sections.append(Section("frozen parameters", frame.head(_SHOWN), note))
    return sections
