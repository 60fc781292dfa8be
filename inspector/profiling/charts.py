"""Charts of a trace: where it goes, module by module, and the architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inspector.profiling.views.icicle import icicle_frame
from inspector.profiling.views.kinds import kinds
from inspector.reporting.numbers import MISSING, counted, si
from inspector.reporting.report import Chart
from inspector.reporting.tables import Table
from inspector.tracing.record import Trace

if TYPE_CHECKING:  # which reads formulas; a cached trace is shown without them
    from inspector.profiling.views.architecture import Architecture

_LABELS = {"params": "parameters", "bytes": "bytes moved", "seconds": "time"}


def icicle(trace: Trace, section: str, frame: Table | None = None, time: str | None = None) -> Chart:
    """The module tree, switchable between what has a total; what has none says why in the note. `frame` is
    that of `icicle_frame`, perhaps with the seconds measured on the device `time`."""
    frame = icicle_frame(trace) if frame is None else frame
    partial = trace.failure is not None or any(not op.known for op in trace.ops)
    macs = "MACs, at least" if partial else "MACs"
    frame = frame.rename({"macs": macs, **_LABELS})
    of = kinds(trace)
    frame = frame.assign(
        module=[path or trace.model for path in frame["path"]],
        label=[path.rpartition(".")[2] or trace.model for path in frame["path"]],
        kind=[of[path] for path in frame["path"]],
        **{"MACs inside": [_bounded(*row) for row in zip(frame[macs], frame["unknown_ops"])]},
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
        color="kind",
        choices=choices,
        hover=("module", "type", "MACs inside", *(c for c in choices if c != macs)),
        note=_icicle_note(trace, [c for c in columns if c not in choices], time, "time" in frame),
        section=section,
    )


def _bounded(macs: int, unknown: int) -> str:
    """The MACs of a module that holds `unknown` operators without a formula."""
    if not unknown:
        return si(macs)
    return f"at least {si(macs)}" if macs else MISSING


def tied(trace: Trace) -> bool:
    """Whether a parameter has several names."""
    return any(entry.aliases for entry in trace.state if entry.kind == "parameter")


def _icicle_note(trace: Trace, empty: list[str], time: str | None, timed: bool) -> str:
    notes = [
        "Each module with everything inside, in the order of the model; a part that no child fills is the"
        " module's own work. Click a box to open it, click it again to go back; arrow keys move, Escape goes"
        " back."
    ]
    if tied(trace):
        notes.append("A tied parameter is drawn once, where its first name is.")
    unknown = sorted({op.module or trace.model for op in trace.ops if not op.known})
    if unknown:
        names = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        notes.append(f"MACs are a lower bound: operators without a formula ran in {names}.")
    if trace.failure is not None:
        notes.append("The pass stopped early: what would have come after is missing.")
    for label in empty:
        why = "they are unknown" if label.endswith("at least") else "there are none"
        notes.append(f"No button for {label.partition(',')[0]}: {why}.")
    if not timed:
        why = (
            f"could not be measured on {time}" if time else "was not measured (report --time cpu measures it)"
        )
        notes.append(f"No button for time: it {why}.")
    return " ".join(notes)


def architecture(trace: Trace, frames: Architecture, after: str) -> Chart:
    """The calls of modules as nested boxes, and the tensors between them."""
    nodes, edges, unclear = frames
    notes = [
        "From top to bottom as it ran: a solid box is the call of a module, a dashed one an operator that its"
        " module runs itself. A line is a tensor with the shape in which it arrives; "
        '"x 12" counts equal'
        " blocks in a row, of which the first is drawn. Parameters are not drawn, nor modules that"
        " do nothing to their input in this pass (Identity, Dropout) or only look at it in another shape."
    ]
    if unclear:
        notes.append(
            f"Between the outermost boxes, {counted(unclear, 'reading')} of tensors that several boxes"
            " wrote in pieces are not drawn."
        )
    if trace.phase == "train":
        notes.append("The forward alone.")
    if trace.failure is not None:
        notes.append("The pass stopped early: what would have come after is missing.")
    return Chart("graph", "architecture", "node", "", nodes, edges=edges, note=" ".join(notes), after=after)
