"""The parts of a page about a model, each a pure function of views of its trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from inspector.backbones.report import shown
from inspector.pages.timeline import ROLES, peak
from inspector.profiling.charts import tied
from inspector.profiling.timer import ModuleTimes
from inspector.profiling.views.kinds import kinds
from inspector.profiling.views.modules import descending, named
from inspector.reporting.numbers import duration, size
from inspector.reporting.report import Chart, Report, Section
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace

MODULES, OPERATORS, CALLS, MEMORY = "modules", "operators", "operator calls", "memory"
MOST_CALLS = 5000
"""Rows of the table of calls that are shown at most."""
SERIES = 7
"""Operators that get their own colour in the roofline."""


def sections(trace: Trace, tables: dict[str, Table]) -> list[Section]:
    """The tables as people read them."""
    modules = named(tables["modules"], trace.model, indent=False)
    made = [
        Section(MODULES, _without_zeros(modules, "unknown_ops"), _tied(trace)),
        _memory(trace, tables["timeline"]),
        Section(OPERATORS, _without_zeros(tables["ops"], "unknown")),
        _calls(trace, tables["calls"]),
        Section("parameters and buffers", tables["kinds"]),
        Section("ledger", tables["state"], "Each storage once; tied are its other names."),
    ]
    if len(tables["unknown"]):
        made.append(Section("operators without a formula", tables["unknown"]))
    return made


def _without_zeros(frame: Table, column: str) -> Table:
    return frame if any(frame[column]) else frame.drop(column)


def _tied(trace: Trace) -> str:
    if not tied(trace):
        return ""
    return "A tied parameter counts in every module that holds one of its names, and once in the model."


def _calls(trace: Trace, frame: Table) -> Section:
    note = ""
    if len(frame) > MOST_CALLS:
        note = f"{MOST_CALLS:,} of {len(frame):,} calls, those with the most FLOPs; this page's JSON has all."
        frame = (
            frame.sort(lambda row: descending(row["flops"])).head(MOST_CALLS).sort(lambda row: row["index"])
        )
    if trace.phase == "forward":
        frame = frame.drop("phase")
    frame = frame.assign(module=[name or trace.model for name in frame["module"]])
    shapes = ("inputs", "outputs")
    return Section(CALLS, frame.select([*frame.drop(*shapes), *shapes]), note)


def _memory(trace: Trace, frame: Table) -> Section:
    """What lives at the peak, by role."""
    top = peak(frame)
    if top is None:
        return Section(MEMORY, Table.of([], ("role", "bytes")), note="No operator ran.")
    roles = [*(role for role in ROLES if any(frame[role])), "total"]
    rows = Table.of(
        [(role, top[role], top[role] / max(top["total"], 1), max(frame[role])) for role in roles],
        ("role", "at the peak", "share", "largest"),
    )
    note = (
        f"The peak is {size(top['total'])} at operator {top['index']} ({_place(trace, top['index'])}),"
        " from the lifetimes of storages as recorded on"
        f" {trace.device}: no rounding by an allocator, no workspace inside kernels."
    )
    if any(op.group == "scaled_dot_product_attention" for op in trace.ops):
        note += " Attention is recorded unfused: a fused kernel never writes its S x S scores."
    return Section(MEMORY, rows, note)


def _place(trace: Trace, index: int) -> str:
    op = trace.ops[index]
    return f"{op.name} in {op.module or trace.model}"


def memory(frame: Table, trace: Trace) -> Chart | None:
    """Live bytes by role over the operators, on top of each other."""
    if not len(frame):
        return None
    roles = tuple(role for role in ROLES if any(frame[role]))
    running = [_place(trace, index) for index in frame["index"]]
    return Chart(
        "area",
        "live bytes by role",
        "operator",
        "bytes",
        frame.rename({"index": "operator"}).assign(running=running),
        choices=roles,
        label="running",
        optional="parameter",
        section=MEMORY,
    )


def timeline(times: ModuleTimes, trace: Trace, place: str) -> Chart:
    """When each module ran, in the forward whose time is the median."""
    of = kinds(trace)
    rows = [
        (path or trace.model, depth, start, stop, stop - start, of.get(path, ""))
        for path, depth, start, stop in times.spans
    ]
    return Chart(
        "spans",
        "when each module ran",
        "time",
        "depth",
        Table.of(rows, ("module", "depth", "start", "stop", "seconds", "kind")),
        low="start",
        high="stop",
        label="module",
        color="kind",
        hover=("module", "seconds", "start"),
        after=MODULES,
        note=f"One forward, the median of {times.runs}, {place}. What a box leaves free below it is its own"
        " work.",
    )


def roofline(frame: Table, trace: Trace) -> Chart | None:
    """FLOPs of each call against its arithmetic intensity; no ceilings, because no device is known."""
    drawn = frame.where(
        work and intensity is not None for work, intensity in zip(frame["flops"], frame["intensity"])
    )
    if not len(drawn):
        return None
    sums = Counter[str]()
    for op, work in zip(drawn["op"], drawn["flops"]):
        sums[op] += work
    largest = sorted(sums, key=lambda op: (-sums[op], op))[:SERIES]
    unknown, still = frame["flops"].count(None), len(frame) - len(drawn)
    note = (
        "Arithmetic intensity, FLOPs per byte moved, against the work of each operator call. No peaks or"
        f" bandwidth are drawn, because no device is chosen. {still - unknown} of {len(frame)} calls"
        " compute nothing or move nothing and are not drawn"
    )
    note += f"; {unknown} have no formula: their work is unknown." if unknown else "."
    drawn = drawn.assign(
        operator=[op if op in largest else "other" for op in drawn["op"]],
        module=[name or trace.model for name in drawn["module"]],
    ).sort(lambda row: [*largest, "other"].index(row["operator"]))
    return Chart(
        "scatter",
        "arithmetic intensity (roofline without ceilings)",
        "FLOPs per byte moved",
        "FLOPs",
        drawn.rename({"intensity": "FLOPs per byte moved", "flops": "FLOPs"}),
        group="operator",
        hover=("op", "module", "inputs", "FLOPs", "bytes", "FLOPs per byte moved"),
        log_x=True,
        log_y=True,
        note=note,
        section=CALLS,
    )


def stages(frame: Table) -> Section:
    """The stages for people."""
    note = (
        "frozen: parameters that require no gradient. What really rests in training, statistics of batch"
        " norms among it, is what `inspect freeze` proves."
    )
    return Section("stages", shown(frame), note)


def timing(times: ModuleTimes, place: str) -> str:
    """How the times came about."""
    return (
        f"measured on {place}: eval mode, no gradients, {times.runs} forwards;"
        f" median {duration(times.bare)}, {duration(times.total)} with the marks that tell modules apart"
    )


def with_times(report: Report, times: Table) -> None:
    """Add the time to the section of modules."""
    for number, section in enumerate(report.sections):
        if section.title == MODULES:
            frame = section.frame.assign(time=list(times["seconds"]))
            report.sections[number] = replace(section, frame=frame)
