"""What grew, as areas: the module tree of both sides in one, coloured by the change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from inspector.regress.compare import Comparison
from inspector.regress.content import Layer, Row
from inspector.regress.layers import moved
from inspector.reporting.numbers import si
from inspector.reporting.report import Chart
from inspector.reporting.tables import Table

MOST = 3
"""Models that are drawn at most, those that changed most."""
LITTLE = 0.1
"""A change by less than this share is little."""
_COLUMNS = {"macs": "MACs", "params": "parameters"}


def charts(comparison: Comparison) -> list[Chart]:
    """A picture of each of the models that changed most; none where a side does not list its layers."""
    drawn = []
    for entry in comparison.where:
        base, head = comparison.base.rows.get(entry.model), comparison.head.rows.get(entry.model)
        if base is not None and head is not None and base.layers and head.layers:
            drawn.append(_chart(base, head, base.layers, head.layers))
        if len(drawn) == MOST:
            break
    return drawn


def _chart(base: Row, head: Row, before: list[Layer], after: list[Layer]) -> Chart:
    frame = growth_frame(before, after)
    choices = tuple(name for name in _COLUMNS.values() if frame[name][0])
    name = head.name if head.name == base.name else f"{base.name} and {head.name}"
    frame = frame.assign(
        module=[path or name for path in frame["path"]],
        label=[path.rpartition(".")[2] or name for path in frame["path"]],
    )
    return Chart(
        "icicle",
        f"what changed in {name}" if name else "what changed",
        "path",
        choices[0] if choices else "",
        frame,
        group="parent",
        label="label",
        color="growth",
        choices=choices,
        hover=("module", "type", *(f"{choice}, base to head" for choice in choices)),
        note="Both sides in one tree, a renamed module where it is now. The area of a module is that of the"
        " side where it is larger. A little: by less than 10% of BASE. Click a box to open it, click it again"
        " to go back; arrow keys move, Escape goes back.",
    )


def growth_frame(before: Iterable[Layer], after: Iterable[Layer]) -> Table:
    """A row for each module of either side, with everything inside: path, parent, type; and of MACs and of
    parameters the area, the numbers of both sides as text, and a word for the change.

    An area is the sum, over the modules inside, of the larger of each one's own two numbers.
    """
    sums: dict[str, dict[str, int]] = {"": defaultdict(int)}
    types: dict[str, str] = {}
    for change in moved(list(before), list(after)):
        types[change.path] = (change.head or change.base).type  # type: ignore[union-attr]
        for path in _around(change.path):
            row = sums.setdefault(path, defaultdict(int))
            for name in _COLUMNS:
                one, two = (getattr(layer, name) if layer else 0 for layer in (change.base, change.head))
                row[f"{name} base"] += one
                row[f"{name} head"] += two
                row[name] += max(one, two)
    rows = []
    for path, row in sums.items():
        line: dict[str, object] = {"path": path, "parent": _parent(path), "type": types.get(path, "")}
        for name, label in _COLUMNS.items():
            one, two = row[f"{name} base"], row[f"{name} head"]
            line[label] = row[name]
            line[f"{label}, base to head"] = f"{si(one)} to {si(two)}"
            line[f"growth of {label}"] = growth(one, two)
        rows.append(line)
    return Table.of(rows)


def growth(base: int, head: int) -> str:
    """A word for a change; the page has a colour for each."""
    if base == head:
        return "the same"
    if not base or not head:
        return "gone" if base else "new"
    size = "a little " if abs(head - base) < LITTLE * base else ""
    return size + ("larger" if head > base else "smaller")


def _around(path: str) -> Iterable[str]:
    """The path and everything around it, the model first."""
    parts = path.split(".") if path else []
    return ("", *(".".join(parts[: count + 1]) for count in range(len(parts))))


def _parent(path: str) -> str | None:
    return path.rpartition(".")[0] if path else None
