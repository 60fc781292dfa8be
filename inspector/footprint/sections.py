"""The report of a simulated step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inspector.footprint import CATEGORIES, Memory, Plan
from inspector.footprint.blocks import PARALLEL
from inspector.footprint.question import LARGEST_BATCH
from inspector.footprint.step import CUDA_CONTEXT
from inspector.footprint.tables import (
    bars_frame,
    composition_frame,
    makers_frame,
    modules_frame,
    moment,
    timeline_frame,
    workspaces_frame,
)
from inspector.footprint.workspaces import ATTENTION, CUDNN
from inspector.reporting.registry import OF_TABLE
from inspector.reporting.report import Chart, Finding, Metric, Report, Section, metrics
from inspector.reporting.tables import Table
from inspector.tracing.capture.setting import PORTABLE, Setting
from inspector.tracing.record import Trace, called

_TOP = 12
"""Rows that people see of the peak by operator and by module."""


@dataclass(frozen=True)
class Asked:
    """A simulated step, and what was asked of it. `limit` and `room` in bytes, `tried` the batches that the
    search for the largest looked at. `rank`: the summary
    of one of `world_size` processes, from `inspector.scaling`."""

    trace: Trace
    plan: Plan
    memory: Memory
    setting: Setting = PORTABLE
    depth: int = 1
    limit: int | None = None
    room: int | None = None
    batch: int | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)
    world_size: int | None = None
    shard: str = "ddp"
    rank: Mapping[str, Any] | None = None
    measured: Any = None
    note: str = ""


def report(asked: Asked) -> Report:
    """The report: a pure function of what was asked and simulated."""
    trace, memory = asked.trace, asked.memory
    timeline = timeline_frame(trace, memory)
    composition = composition_frame(memory)
    findings = [*_fits(asked, composition), *_remarks(asked)]
    tables = {
        "composition": composition,
        "modules": modules_frame(memory, asked.depth),
        "operators": makers_frame(memory),
        "timeline": timeline,
    }
    modules = tables["modules"]
    named = modules.assign(module=[name or f"({trace.model} itself)" for name in modules["module"]])
    sections = [
        Section("composition of the peak", composition),
        Section(f"the peak by module (depth {asked.depth})", named.head(_TOP)),
        Section("the peak by the operator that made it", tables["operators"].head(_TOP)),
        Section("timeline", bars_frame(timeline), "each row is the peak of its time slice"),
    ]
    if memory.extras:
        frame = tables["workspaces"] = workspaces_frame(memory)
        title, note = "what workspaces may add to the peak", "one kind of a library runs at a time"
        if any(frame["at_most"]):
            sections.append(Section(title, frame.where(frame["at_most"]), note))
    if asked.tried:
        tables["batches"] = Table.of(asked.tried)
        sections.append(Section("batches tried", tables["batches"]))
    if asked.rank is not None:
        terms = {
            name: asked.rank["peak"][name]
            for name in (*CATEGORIES, *PARALLEL)
            if asked.rank["peak"].get(name)
        }
        tables["processes"] = Table.of(terms.items(), ("part", "bytes"))
        shown = Table.of([*terms.items(), ("sum", sum(terms.values()))], ("part", "bytes"))
        title = f"the peak of each of {asked.world_size} processes, {asked.shard} (simulated)"
        sections.append(Section(title, shown))
    if asked.measured is not None:
        tables["measured"] = asked.measured.frame
        sections.append(
            Section("predicted against measured", asked.measured.frame, columns=OF_TABLE["measured"])
        )
    return Report(
        command="memory",
        subject=trace.subject,
        environment=dict(trace.environment),
        metrics=_metrics(asked),
        tables=tables,
        findings=findings,
        verdict=_verdict(asked, findings),
        header=_header(asked),
        sections=sections,
        charts=[_chart(timeline)],
    )


def _verdict(asked: Asked, findings: list[Finding]) -> str:
    if any(finding.status == "fail" for finding in findings):
        return "fail"
    return "pass" if asked.limit is not None else "none"


def _metrics(asked: Asked) -> dict[str, Metric]:
    memory = asked.memory
    values: dict[str, int | None] = {
        "peak_allocated": memory.allocated,
        "peak_reserved": memory.reserved,
        "convolution_workspace_low": memory.extra(CUDNN)[0],
        "convolution_workspace": memory.extra(CUDNN)[1],
    }
    if any(owner == ATTENTION for owner, _, _ in memory.extras):
        values["attention_workspace"] = memory.extra(ATTENTION)[1]
    if asked.room is not None:
        values["max_batch"] = asked.batch if any(row["fits"] for row in asked.tried) else 0
        values["safe_batch"] = max((row["batch"] for row in asked.tried if row["safe"]), default=0)
    sums = memory.categories
    values |= {f"peak_{name.replace(' ', '_')}": sums[name] for name in CATEGORIES}
    if asked.rank is not None:
        values["peak_per_process"] = asked.rank["peak_allocated"]
    none = [name for name in values if name.endswith(("workspace", "workspace_low")) and not values[name]]
    return {
        name: replace(metric, shown=metric.shown and name not in none)
        for name, metric in metrics(values).items()
    }


def _header(asked: Asked) -> list[tuple[str, str]]:
    trace, setting, plan = asked.trace, asked.setting, asked.plan
    kind = trace.modules[0].type if trace.modules else ""
    phase = "inference (eval mode, no gradients)"
    if plan.optimizer is not None:
        phase = f"training step, {plan.optimizer.name}" + (", master weights" if plan.master_weights else "")
    lines = [
        ("model", f"{trace.model} ({trace.source}, {kind})"),
        *called(trace.call),
        ("input", " ".join(trace.inputs)),
        ("phase", phase),
        ("precision", _precision(setting)),
    ]
    if setting.kernels is not None and trace.device == "meta":
        lines.append(("attention", setting.kernels.attention))
    if setting.checkpoints:
        lines.append(("checkpointed", ", ".join(setting.checkpoints)))
    spot = moment(trace, asked.memory.peak_at)
    where = spot["module"] or "the model"
    lines.append(("peak at", f"{spot['phase']}: {spot['operator']} of {where}"))
    return lines


def _precision(setting: Setting) -> str:
    weights = setting.dtype or "as the model is"
    lowered = setting.kernels.autocast if setting.kernels else None
    return f"{weights}, autocast to {lowered}" if lowered else weights


def _fits(asked: Asked, composition: Table) -> list[Finding]:
    if asked.limit is None:
        return []
    need, parts = asked.memory.needed, dict(zip(composition["category"], composition["bytes"]))
    ordered = sorted(parts.items(), key=lambda part: -part[1])
    largest = ", ".join(f"{name} {_gib(nbytes)}" for name, nbytes in ordered[:4])
    evidence = {"needed": need, "limit": asked.limit, **parts}
    context = f"reserved, and {_gib(CUDA_CONTEXT[1])} for CUDA itself"
    message = f"needs {_gib(need)} of {_gib(asked.limit)} ({context}): {largest}"
    if need > asked.limit:
        return [Finding("fits", "fail", asked.trace.model, f"does not fit: {message}", evidence)]
    more = asked.memory.workspaces
    close = need + more > asked.limit
    tight = f"; too tight if workspaces take the most that they may, {_gib(more)}" if close else ""
    return [Finding("fits", "pass", asked.trace.model, f"fits: {message}{tight}", evidence)]


def _gib(nbytes: float) -> str:
    return f"{nbytes / 2**30:.2f} GiB"


def _remarks(asked: Asked) -> list[Finding]:
    trace, plan = asked.trace, asked.plan
    notes = [*trace.notes]
    low, high = map(_gib, CUDA_CONTEXT)
    counted = asked.limit is not None or asked.room is not None
    context = (
        f"CUDA's own context takes {low} to {high}, by device and driver: what is needed includes"
        f" {high} for it, the peaks do not"
        if counted
        else f"the peaks do not include CUDA's own context, {low} to {high} by device and driver"
    )
    notes.append("simulated; this version was compared with torch on a CPU, not yet on a GPU")
    notes += _workspaces(asked)
    notes.append(context)
    notes.append(
        "in no number: what libraries allocate outside torch (NCCL), and fragmentation beyond one step"
    )
    if any(op.group in ("lstm", "gru", "rnn_tanh", "rnn_relu") for op in trace.ops):
        notes.append(
            "recurrent layers are recorded step by step; cuDNN allocates one workspace of its own instead"
        )
    fused = {"MultiheadAttention", "TransformerEncoderLayer"}.intersection(m.type for m in trace.modules)
    if fused and trace.phase == "forward":
        notes.append(
            "torch may take its own fused path for nn.MultiheadAttention in eval mode, which is not simulated"
        )
    if trace.device != "meta":
        notes.append("attention and dropout are simulated as the CPU runs them")
    if plan.optimizer is not None and plan.optimizer.note:
        notes.append(plan.optimizer.note)
    if asked.room is not None and asked.batch == LARGEST_BATCH:
        notes.append(f"the search ends at a batch of {LARGEST_BATCH:,}: more may fit")
    if asked.measured is not None:
        notes.append(asked.measured.note)
    place = trace.device.partition(":")[0]
    elsewhere = sum(storage.nbytes for storage in trace.storages if storage.device != place)
    if elsewhere > 2**20:
        notes.append(f"left out: {_gib(elsewhere)} of tensors that the model creates on another device")
    return [Finding("provenance", "warn", "", text) for text in notes]


def _workspaces(asked: Asked) -> list[str]:
    """Where the ranges of workspaces come from."""
    notes = [asked.note] if asked.note else []
    rules = asked.plan.rules
    kinds = {(owner, source) for owner, _, source in asked.memory.extras}
    if (CUDNN, "bound") in kinds:
        card = "any card" if rules.major is None else f"compute capability {rules.major}"
        layout = "NHWC" if rules.channels_last else "NCHW"
        notes.append(
            "cuDNN's workspaces are a range, not in the peak: from none to what the most demanding of its"
            f" algorithms takes (bound; {layout}, {card}); which one it picks it does not say in advance"
        )
    if rules.calibration is not None and (CUDNN, "calibrated") in kinds:
        held = rules.calibration
        notes.append(
            f"cuDNN's workspaces as measured (calibrated) on {held.card} with torch {held.torch}, cuDNN"
            f" {held.cudnn}"
        )
    if (ATTENTION, "derived") in kinds:
        notes.append(
            "what the backward of attention takes at least is in the peak (derived from torch's sources)"
        )
    return notes


def _chart(timeline: Table) -> Chart:
    used = tuple(name for name in CATEGORIES if any(timeline[name]))
    running = [" in ".join(filter(None, pair)) for pair in zip(timeline["operator"], timeline["module"])]
    return Chart(
        "area",
        "What lives when",
        "operator",
        "bytes",
        timeline.rename({"operator": "name", "at": "operator"}).assign(running=running),
        choices=used,
        label="running",
        optional="parameters",
        note="Simulated. Each step is the highest of its stretch of operators.",
    )
