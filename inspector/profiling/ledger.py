"""The report of a ledger: tensors with their numbers, and totals."""

from __future__ import annotations

from inspector.profiling.views.state import kinds_frame, ledger_frame, packed_types, real_numbers
from inspector.reporting.report import Metric, Report, Section, environment, metrics
from inspector.tracing.record import StateEntry


def ledger_report(name: str, source: str, entries: tuple[StateEntry, ...], top: int | None) -> Report:
    """The tensors of a model or of files; `top` limits those that are printed."""
    ledger, kinds = ledger_frame(entries), kinds_frame(entries)
    shown, note = ledger if any(ledger["tied"]) else ledger.drop("tied"), ""
    if top is not None and len(shown) > top:
        shown = shown.sort(lambda row: -row["bytes"]).head(top)
        note = f"(the largest {top} of {len(ledger)})"
    return Report(
        command="params",
        subject={"name": name, "source": source, "inputs": [], "phase": None, "device": None},
        environment=environment(),
        metrics=_metrics(entries),
        tables={"state": ledger, "kinds": kinds},
        header=[("model", f"{name} ({source})")],
        sections=[Section("state, tied tensors once", shown, note), Section("totals", kinds)],
    )


def _metrics(entries: tuple[StateEntry, ...]) -> dict[str, Metric]:
    def total(kind: str, what: str = "numel", **where: bool) -> int:
        return sum(
            getattr(e, what)
            for e in entries
            if e.kind == kind and all(getattr(e, k) == v for k, v in where.items())
        )

    if any(entry.kind == "tensor" for entry in entries):
        elements, size = total("tensor"), total("tensor", "nbytes")
        values = {"tensors": len(entries), "elements": elements, "bytes": size}
        if packed_types(entries) and elements:
            return metrics({**values, "bits_per_element": 8 * size / elements})
        return metrics(values)
    values = {
        "params": total("parameter"),
        "trainable_params": total("parameter", trainable=True),
        "buffers": total("buffer"),
        "persistent_buffers": total("buffer", persistent=True),
        "param_bytes": total("parameter", "nbytes"),
        "buffer_bytes": total("buffer", "nbytes"),
    }
    reals = real_numbers(entries)
    if reals is not None:
        values["real_params"] = reals
    if any(entry.kind == "packed" for entry in entries):
        values["packed_params"] = total("packed")
    return metrics(values)
