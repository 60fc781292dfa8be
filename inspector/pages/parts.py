"""The parts of a page about a model, each a pure function of views of its trace."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from inspector.backbones.report import shown
from inspector.pages.timeline import ROLES, peak
from inspector.profiling.timer import ModuleTimes
from inspector.profiling.views.modules import descending, named
from inspector.reporting.numbers import MISSING, duration, si, size
from inspector.reporting.report import Chart, Report, Section
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace

MODULES, OPERATORS, CALLS, MEMORY = "modules", "operators", "operator calls", "memory"
MOST_CALLS = 5000
"""Rows of the table of calls that are shown at most."""
_SCALES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
SERIES = 7
"""Operators that get their own colour in the roofline."""
_LABELS = {"params": "parameters", "bytes": "bytes moved", "seconds": "time"}


def sections(found: Trace, tables: dict[str, Table]) -> list[Section]:
    """The tables as people read them."""
    modules = named(tables["modules"], found.model, indent=False)
    made = [
        Section(MODULES, _without_zeros(modules, "unknown_ops"), _tied(found)),
        Section(OPERATORS, _without_zeros(tables["ops"], "unknown")),
        _calls(found, tables["calls"]),
        _memory(found, tables["timeline"]),
        Section("parameters and buffers", tables["kinds"]),
        Section("ledger", tables["state"], "Each storage once; tied are its other names."),
    ]
    if len(tables["unknown"]):
        made.append(Section("operators without a formula", tables["unknown"]))
    return made


def _without_zeros(frame: Table, column: str) -> Table:
    return frame if any(frame[column]) else frame.drop(column)


def _tied(found: Trace) -> str:
    if not any(entry.aliases for entry in found.state if entry.kind == "parameter"):
        return ""
    return "A tied parameter counts in every module that holds one of its names, and once in the model."


def _calls(found: Trace, frame: Table) -> Section:
    note = ""
    if len(frame) > MOST_CALLS:
        note = f"{MOST_CALLS:,} of {len(frame):,} calls, those with the most FLOPs; this page's JSON has all."
        frame = (
            frame.sort(lambda row: descending(row["flops"])).head(MOST_CALLS).sort(lambda row: row["index"])
        )
    if found.phase == "forward":
        frame = frame.drop("phase")
    frame = frame.assign(module=[name or found.model for name in frame["module"]])
    shapes = ("inputs", "outputs")
    return Section(CALLS, frame.select([*frame.drop(*shapes), *shapes]), note)


def _memory(found: Trace, frame: Table) -> Section:
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
        f"The peak is {size(top['total'])} at operator {top['index']} ({_place(found, top['index'])}),"
        " from the lifetimes of storages as recorded on"
        f" {found.device}: no rounding by an allocator, no workspace inside kernels."
    )
    if any(op.group == "scaled_dot_product_attention" for op in found.ops):
        note += " Attention is recorded unfused: a fused kernel never writes its S x S scores."
    return Section(MEMORY, rows, note)


def _place(found: Trace, index: int) -> str:
    op = found.ops[index]
    return f"{op.name} in {op.module or found.model}"


def memory(frame: Table, found: Trace) -> Chart | None:
    """Live bytes by role over the operators, on top of each other."""
    if not len(frame):
        return None
    roles = [role for role in ROLES if any(frame[role])]
    scale, unit = next((s, u) for s, u in _SCALES if max(frame["total"]) >= s or s == 1)
    places = [(index, _place(found, index), total) for index, total in zip(frame["index"], frame["total"])]
    rows = [
        (*place, role, nbytes, round(nbytes / scale, 3))
        for role in roles
        for place, nbytes in zip(places, frame[role])
    ]
    return Chart(
        "area",
        "live bytes by role",
        "operator",
        unit,
        Table.of(rows, ("operator", "running", "total", "role", "bytes", unit)),
        group="role",
        hover=("running", "total"),
        section=MEMORY,
    )


def roofline(frame: Table, found: Trace) -> Chart | None:
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
        module=[name or found.model for name in drawn["module"]],
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


def icicle(frame: Table, found: Trace, time: str | None) -> Chart:
    """The module tree, switchable between what has a total; what has none says why in the note."""
    partial = found.failure is not None or any(not op.known for op in found.ops)
    macs = "MACs, at least" if partial else "MACs"
    frame = frame.rename({"macs": macs, **_LABELS})
    inside = [_bounded(*row) for row in zip(frame[macs], frame["unknown_ops"])]
    frame = frame.assign(
        module=[path or found.model for path in frame["path"]],
        label=[path.rpartition(".")[2] or found.model for path in frame["path"]],
        worker=[kind if works else None for kind, works in zip(frame["type"], _does_most_itself(frame))],
        **{"MACs inside": inside},
    )
    columns = [label for label in (macs, *_LABELS.values()) if label in frame]
    choices = tuple(label for label in columns if len(frame) and frame[label][0] > 0)
    return Chart(
        "icicle",
        "where it goes",
        "path",
        choices[0] if choices else "",
        frame,
        group="parent",
        label="label",
        color="worker",
        choices=choices,
        hover=("module", "type", "MACs inside", *(c for c in choices if c != macs)),
        note=_icicle_note(found, [c for c in columns if c not in choices], time, "time" in frame),
        section=MODULES,
    )


def _bounded(macs: int, unknown: int) -> str:
    """The MACs of a module that holds `unknown` operators without a formula."""
    if not unknown:
        return si(macs)
    return f"at least {si(macs)}" if macs else MISSING


def _does_most_itself(frame: Table) -> list[bool]:
    """Whether a module moves more bytes than its children do."""
    inside = Counter[str]()
    for parent, nbytes in zip(frame["parent"], frame["bytes moved"]):
        inside[parent] += nbytes
    return [nbytes > 2 * inside[path] for path, nbytes in zip(frame["path"], frame["bytes moved"])]


def _icicle_note(found: Trace, empty: list[str], time: str | None, timed: bool) -> str:
    notes = [
        "Each module with everything inside; a part that no child fills is the module's own work. Coloured by"
        " type are the modules that move most of their bytes themselves. Click a part to open it."
    ]
    if _tied(found):
        notes.append("A tied parameter is drawn once, where its first name is.")
    unknown = sorted({op.module or found.model for op in found.ops if not op.known})
    if unknown:
        names = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        notes.append(f"MACs are a lower bound: operators without a formula ran in {names}.")
    if found.failure is not None:
        notes.append("The pass stopped early: what would have come after is missing.")
    for label in empty:
        why = "they are unknown" if label.endswith("at least") else "there are none"
        notes.append(f"No button for {label.partition(',')[0]}: {why}.")
    if not timed:
        why = f"could not be measured on {time}" if time else "was not measured (--time cpu measures it here)"
        notes.append(f"No button for time: it {why}.")
    return " ".join(notes)


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
