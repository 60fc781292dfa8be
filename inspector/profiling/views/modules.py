"""The module tree: what each module and everything inside it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from inspector.profiling.views.totals import flops
from inspector.reporting.tables import Table
from inspector.tracing.record import Op, StateEntry, Trace

SUMS = ("params", "macs", "flops", "activations", "bytes", "unknown_ops")


def modules_frame(trace: Trace) -> Table:
    """A row for each module, in the order of the tree, sums including everything inside.

    Columns: path ("" is the model), type, depth, calls, params, macs, flops, activations, bytes,
    unknown_ops, share (of the model's MACs). A tied parameter counts once in every module that
    holds one of its names.
    """
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SUMS, 0))
    for op in trace.ops:
        for path in ancestors(op.module):
            add(sums[path], op)
    for entry in trace.state:
        if entry.kind == "parameter":
            names = (entry.name, *entry.aliases)
            for path in {path for name in names for path in ancestors(_parent(name))}:
                sums[path]["params"] += entry.numel
    whole = sums[""]["macs"] or 1
    rows = [
        {
            "path": module.path,
            "type": module.type,
            "depth": module.path.count(".") + 1 if module.path else 0,
            "calls": module.calls,
            **sums[module.path],
            "share": sums[module.path]["macs"] / whole,
        }
        for module in trace.modules
    ]
    return _unknown_is_not_zero(Table.of(rows, ["path", "type", "depth", "calls", *SUMS, "share"]))


def types_frame(trace: Trace) -> Table:
    """A row for each module class: what its modules do themselves, children not included.

    Columns: type, modules, calls, params, macs, flops, activations, bytes, unknown_ops, share.
    """
    kinds = {module.path: module.type for module in trace.modules}
    rows: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(("modules", "calls", *SUMS), 0))
    for module in trace.modules:
        rows[module.type]["modules"] += module.same_as is None
        rows[module.type]["calls"] += module.calls
    for op in trace.ops:
        add(rows[kinds.get(op.module, "")], op)
    for entry in trace.state:
        if entry.kind == "parameter":
            rows[kinds.get(_parent(entry.name), "")]["params"] += entry.numel
    whole = sum(row["macs"] for row in rows.values()) or 1
    frame = Table.of(
        [{"type": kind, **row, "share": row["macs"] / whole} for kind, row in rows.items()],
        ["type", "modules", "calls", *SUMS, "share"],
    )
    return _unknown_is_not_zero(frame).sort(
        lambda row: (*descending(row["macs"], row["flops"], row["params"]), row["type"])
    )


LAYERS = ("path", "type", "shape", "calls", "params", "macs")


def layers_frame(trace: Trace) -> Table:
    """A row for each module that holds parameters or runs contractions itself, children not included.

    Columns: path, type, shape (of its largest parameter, "512x256x3x3"), calls, params, macs. A tied
    parameter counts where its first name is: the columns sum to the model's own totals.
    """
    macs: dict[str, int] = defaultdict(int)
    for op in trace.ops:
        macs[op.module] += op.macs or 0
    held: dict[str, list[StateEntry]] = defaultdict(list)
    for entry in trace.state:
        if entry.kind == "parameter":
            held[_parent(entry.name)].append(entry)
    modules = {module.path: module for module in trace.modules}
    paths = [*modules, *(path for path in {**held, **macs} if path not in modules)]
    rows = [
        (
            path,
            modules[path].type if path in modules else "",
            _shape(held[path]) if path in held else "",
            modules[path].calls if path in modules else 0,
            sum(entry.numel for entry in held.get(path, ())),
            macs.get(path, 0),
        )
        for path in paths
        if path in held or macs.get(path)
    ]
    return Table.of(rows, LAYERS)


def _shape(entries: list[StateEntry]) -> str:
    return "x".join(map(str, max(entries, key=lambda entry: entry.numel).shape))


def _unknown_is_not_zero(frame: Table) -> Table:
    """Where only operators without a formula ran, MACs, FLOPs and activations are missing."""
    blind = [unknown > 0 and not work for unknown, work in zip(frame["unknown_ops"], frame["flops"])]
    columns = ("macs", "flops", "activations", "share")
    return frame.assign(**{column: masked(frame[column], blind) for column in columns})


def masked(values: Iterable[Any], blind: Iterable[bool]) -> list[Any]:
    """The values, missing where they are `blind`."""
    return [None if unknown else value for value, unknown in zip(values, blind)]


def descending(*values: float | None) -> tuple[tuple[bool, float], ...]:
    """A key of an order by the largest values, with missing ones last."""
    return tuple((value is None, -(value or 0)) for value in values)


def add(row: dict[str, int], op: Op) -> None:
    row["macs"] += op.macs or 0
    row["flops"] += flops(op)
    row["activations"] += op.activations
    row["bytes"] += op.bytes_read + op.bytes_written
    row["unknown_ops"] += not op.known


def tree(frame: Table, name: str, depth: int, top: int | None = None) -> Table:
    """The rows of `modules_frame` down to `depth`, with an indented name, as people read it.

    With `top` only that many modules of the deepest level shown, largest MACs first.
    """
    shown = frame.where(level <= depth for level in frame["depth"])
    if top is not None:
        deepest = max(shown["depth"], default=0)
        leaves = shown.where(level == deepest for level in shown["depth"])
        largest = leaves.sort(lambda row: descending(row["macs"], row["params"]))
        return named(largest.head(top), name, indent=False)
    return named(shown, name, indent=True)


def named(frame: Table, name: str, indent: bool) -> Table:
    """Rows of `modules_frame` with a column `module` for people, `name` for the model itself."""
    labels = [
        ("  " * depth + path.rpartition(".")[2] if indent else path) if path else name
        for path, depth in zip(frame["path"], frame["depth"])
    ]
    return Table({"module": labels}).assign(**dict(frame.drop("path", "depth").items()))


def ancestors(path: str) -> Iterable[str]:
    """The path itself and everything around it, up to the model (""): a.b gives a.b, a and ""."""
    yield path
    while path:
        path = path.rpartition(".")[0]
        yield path


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
