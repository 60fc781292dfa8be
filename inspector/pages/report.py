"""One page about a model: everything that one pass shows, and the reports of other commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.backbones import find_stages
from inspector.backbones.report import stage_frame, state
from inspector.core.errors import InspectError
from inspector.models import Model, Recipe, as_recipe
from inspector.models.device import OTHERS, real_device
from inspector.models.inputs import as_inputs
from inspector.models.subject import lazy
from inspector.pages import parts
from inspector.pages.added import foreign, presentable
from inspector.pages.timeline import timeline_frame
from inspector.profiling import charts, timer
from inspector.profiling.report import report as profiled
from inspector.profiling.run import trace
from inspector.profiling.views.architecture import architecture_frames
from inspector.profiling.views.calls import calls_frame
from inspector.profiling.views.icicle import icicle_frame
from inspector.profiling.views.state import kinds_frame, ledger_frame
from inspector.reporting.report import Finding, Report, metric
from inspector.reporting.tables import Table
from inspector.tracing.capture import ForwardError
from inspector.tracing.capture.state import state_entries
from inspector.tracing.record import Trace


def page(
    model: Model | Trace,
    inputs: Any = None,
    *,
    phase: str = "forward",
    device: str | None = None,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    stages: Sequence[Sequence[str]] | None = None,
    time: str | None = None,
    added: Sequence[Report | str | Path] = (),
    call: str | None = None,
) -> Report:
    """Everything that one pass over `model` shows, as a report whose HTML form is a page to look at:
    `inspector.page("resnet50").save("report.html")`.

    model, inputs, phase, device, seed, model_args, call: as in `inspector.trace`; a finished Trace, too
        (which holds no model, so that the page has no stages).
    stages: your own stages, each a list of globs (see `inspector.stages`).
    time: "cpu", "cuda", "xpu" or "mps" also measures each module's time in a forward there. `model` stays
        untouched.
    added: reports of other commands, or their JSON files, which become parts of the page.

    Raises what `trace` raises, and InspectError for a file that is no report. What cannot be found (stages)
    or measured (time) is absent with its reason.
    """
    reports = [entry if isinstance(entry, Report) else Report.read(entry) for entry in added]
    if time is not None:
        real_device(time, "measure time", others=OTHERS)
        timer.check(phase, isinstance(model, Trace))
    if isinstance(model, Trace):
        record, recipe = model, None
    else:
        recipe = as_recipe(model, model_args, call)
        try:
            record = trace(recipe, inputs, phase=phase, device=device, seed=seed)
        except ForwardError as error:
            error.report = page(error.trace, added=reports)
            raise
    result = _report(record)
    _add_stages(result, record, recipe, stages, seed)
    seconds = None
    if time is not None and recipe is not None:
        seconds = _add_times(result, record, recipe, inputs, time, seed)
    result.charts.insert(0, charts.icicle(record, parts.MODULES, icicle_frame(record, seconds), time))
    result.added = [presentable(entry) for entry in reports]
    result.findings += [finding for entry in reports for finding in foreign(entry, record.model)]
    return result


def _report(trace: Trace) -> Report:
    """What the trace alone shows."""
    base = profiled(trace)
    calls, timeline = calls_frame(trace), timeline_frame(trace)
    tables = base.tables | {
        "calls": calls,
        "timeline": timeline,
        "state": ledger_frame(trace.state),
        "kinds": kinds_frame(trace.state),
    }
    drawn = [parts.roofline(calls, trace), parts.memory(timeline, trace)]
    if graph := architecture_frames(trace):
        tables |= {"architecture": graph.nodes, "edges": graph.edges}
        drawn.append(charts.architecture(trace, graph, parts.MODULES))
    return replace(
        base,
        command="report",
        tables=tables,
        sections=parts.sections(trace, tables),
        charts=[chart for chart in drawn if chart],
        more_charts=list,
    )


def _add_stages(
    result: Report,
    trace: Trace,
    recipe: Recipe | None,
    chosen: Sequence[Sequence[str]] | None,
    seed: int,
) -> None:
    """The table of stages with what is frozen in each, or the reason why there is none."""
    try:
        frame = _stages(trace, recipe, chosen, seed)
    except InspectError as error:
        if chosen:
            raise
        result.findings.append(Finding("stages", "skip", "", f"no stages: {error.message}"))
        return
    result.tables["stages"] = frame
    result.sections.append(parts.stages(frame))


def _stages(trace: Trace, recipe: Recipe | None, chosen: Sequence[Sequence[str]] | None, seed: int) -> Table:
    if recipe is None:
        raise InspectError("a trace alone does not hold the model", "pass the model")
    if any(entry.kind == "packed" for entry in trace.state):
        raise InspectError("quantized weights are packed and never train", "name the float model")
    model = recipe.shapes(seed=seed)
    if lazy(model):
        raise InspectError("the parameters of the model are lazy", "run the model once first")
    forward = replace(trace, ops=tuple(op for op in trace.ops if op.phase == "forward"))
    backbone = find_stages(model, forward, chosen)
    entries = [entry for entry in state_entries(model) if entry.kind == "parameter"]
    frozen_entries = [entry for entry in entries if not entry.trainable]
    frozen = [name for entry in frozen_entries for name in (entry.name, *entry.aliases)]
    numel = {entry.name: entry.numel for entry in frozen_entries}
    groups = [stage.parameters for stage in backbone.stages]
    groups += [backbone.rest] if backbone.rest else []
    return stage_frame(backbone, model).assign(
        frozen=[sum(numel.get(name, 0) for name in names) for names in groups],
        state=[state(names, frozen) for names in groups],
    )


def _add_times(
    result: Report, trace: Trace, recipe: Recipe, inputs: Any, device: str, seed: int
) -> Mapping[str, float] | None:
    """Each module's own seconds, also as a table, or the reason why they could not be measured."""
    chosen = as_inputs(inputs) if inputs is not None else None
    try:
        times = timer.measure(recipe, chosen, device, seed)
    except InspectError as error:
        result.findings.append(Finding("time", "skip", "", f"not measured on {device}: {error.message}"))
        return None
    result.metrics["forward_seconds"] = metric("forward_seconds", times.bare)
    result.header.append(("time", parts.timing(times, timer.place(device))))
    frame = icicle_frame(trace, times.own).select(("path", "type", "seconds"))
    result.tables["times"] = frame.assign(own_seconds=[times.own.get(p, 0.0) for p in frame["path"]])
    parts.with_times(result, result.tables["times"])
    result.charts.append(parts.timeline(times, trace, f"on {timer.place(device)}"))
    return times.own
