"""The module tree as areas: at every node the parts add up to no more than the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from inspector.profiling.views.modules import ancestors
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace

SUMS = ("macs", "params", "bytes", "unknown_ops")


def icicle_frame(trace: Trace, seconds: Mapping[str, float] | None = None) -> Table:
    """A row for each module: path, parent (None for the model), type, and macs, params, bytes (moved),
    unknown_ops and, where given, seconds with everything inside.

    Unlike `modules_frame`, a tied parameter counts once, where its first name is; so a row is never less
    than the sum of its children, and the model's row is the total. Operators without a formula add
    nothing to macs, which are an area here: with any inside, the true area is larger. `seconds` are what
    each module took itself, its children left out.
    """
    sums: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(SUMS, 0))
    times: dict[str, float] = defaultdict(float)
    for op in trace.ops:
        for path in ancestors(op.module):
            sums[path]["macs"] += op.macs or 0
            sums[path]["bytes"] += op.bytes_read + op.bytes_written
            sums[path]["unknown_ops"] += not op.known
    for entry in trace.state:
        if entry.kind == "parameter":
            for path in ancestors(entry.name.rpartition(".")[0]):
                sums[path]["params"] += entry.numel
    for owner, own in (seconds or {}).items():
        for path in ancestors(owner):
            times[path] += own
    paths = {module.path for module in trace.modules}
    frame = Table.of(
        [
            {"path": m.path, "parent": _parent(m.path, paths), "type": m.type, **sums[m.path]}
            for m in trace.modules
        ],
        ("path", "parent", "type", *SUMS),
    )
    return frame if seconds is None else frame.assign(seconds=[times[path] for path in frame["path"]])


def _parent(path: str, paths: set[str]) -> str | None:
    """The nearest module around it that is in the tree."""
    return next((outer for outer in list(ancestors(path))[1:] if outer in paths), None)
