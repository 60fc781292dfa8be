"""What lives while each operator runs, from the lifetimes of the storages."""

from __future__ import annotations

from itertools import accumulate

from inspector.reporting.tables import Table
from inspector.tracing.record import Storage, Trace

ROLES = ("parameter", "buffer", "input", "constant", "gradient", "intermediate")
_WITH = {"packing": "parameter"}
"""Roles that are shown as part of another."""


def timeline_frame(trace: Trace) -> Table:
    """A row for each operator: its index in `Trace.ops`, the bytes of the storages of each role that live
    while it runs, and their total. A storage counts whole from the operator that made it to the last one
    that ran before its release; no allocator rounds here."""
    count = len(trace.ops)
    steps = {role: [0] * (count + 1) for role in ROLES}
    for storage in trace.storages:
        first, last = _span(storage, count)
        if first <= last:
            changes = steps[_WITH.get(storage.role, storage.role)]
            changes[first] += storage.nbytes
            changes[last + 1] -= storage.nbytes
    live = {role: list(accumulate(changes))[:count] for role, changes in steps.items()}
    totals = [sum(row) for row in zip(*live.values())]
    return Table({"index": range(count), **live, "total": totals})


def _span(storage: Storage, count: int) -> tuple[int, int]:
    """The first and the last operator during which it lives; none when the last comes before the first."""
    last = count - 1 if storage.death is None else storage.death
    return storage.birth or 0, min(last, count - 1)


def peak(frame: Table) -> dict[str, int] | None:
    """The row with the largest total, the first of equals; None where nothing ran."""
    if not len(frame):
        return None
    place = frame["total"].index(max(frame["total"]))
    return {name: values[place] for name, values in frame.items()}
