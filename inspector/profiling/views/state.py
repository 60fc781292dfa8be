"""The ledger of parameters and buffers as tables."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from inspector.tracing.record import ITEM_BYTES, StateEntry

COLUMNS = ("name", "kind", "shape", "dtype", "numel", "bytes", "trainable", "persistent", "tied")


def ledger_frame(entries: Iterable[StateEntry]) -> pd.DataFrame:
    """A row for each storage: name, kind, shape, dtype, numel, bytes, trainable, persistent, tied (its other
    names), and where some are kept as other tensors: stored."""
    entries = list(entries)
    frame = pd.DataFrame([_row(entry) for entry in entries], columns=list(COLUMNS))
    if any(entry.stored for entry in entries):
        frame["stored"] = [entry.stored for entry in entries]
    return frame


def _row(entry: StateEntry) -> tuple[object, ...]:
    shape, tied = "x".join(map(str, entry.shape)) or "scalar", ", ".join(entry.aliases)
    numbers = entry.numel, entry.nbytes, entry.trainable, entry.persistent
    return entry.name, entry.kind, shape, entry.dtype, *numbers, tied


def real_numbers(entries: Iterable[StateEntry]) -> int | None:
    """The real numbers in all parameters, two for each complex one; None where none is complex."""
    counts = [(entry.numel, "complex" in entry.dtype) for entry in entries if entry.kind == "parameter"]
    if not any(is_complex for _, is_complex in counts):
        return None
    return sum(numel * (1 + is_complex) for numel, is_complex in counts)


def stored_otherwise(entries: Iterable[StateEntry]) -> str:
    """One line on the parameters that are kept as other tensors, "" where there are none."""
    kept = [entry for entry in entries if entry.stored]
    if not kept:
        return ""
    first, more = kept[0], f" and {len(kept) - 1} more" if len(kept) > 1 else ""
    numel, nbytes = sum(entry.numel for entry in kept), sum(entry.nbytes for entry in kept)
    takes = f"their {numel:,} elements take {nbytes:,} bytes in this process"
    return f"{first.name} is {first.stored}{more}: {takes}"


def packed_types(entries: Iterable[StateEntry]) -> set[str]:
    """The types among the dtypes that torch does not have, as files name them: Q4_K, F6_E2M3."""
    return {entry.dtype for entry in entries} - set(ITEM_BYTES)


def kinds_frame(entries: Iterable[StateEntry]) -> pd.DataFrame:
    """Totals for each kind and dtype: kind, dtype, tensors, numel, bytes, share (of all bytes), and where
    types pack their elements, bits (of an element, scales included)."""
    entries = list(entries)
    frame = ledger_frame(entries)
    frozen = (frame["kind"] == "parameter") & ~frame["trainable"].astype(bool)
    volatile = (frame["kind"] == "buffer") & ~frame["persistent"].astype(bool)
    kind = frame["kind"].mask(frozen, "parameter (frozen)").mask(volatile, "buffer (not persistent)")
    grouped = frame.assign(kind=kind).groupby(["kind", "dtype"], sort=True)
    sums = grouped.agg(tensors=("name", "size"), numel=("numel", "sum"), bytes=("bytes", "sum"))
    sums = sums.reset_index().sort_values(["bytes", "kind"], ascending=[False, True])
    sums["share"] = sums["bytes"] / (sums["bytes"].sum() or 1)
    if packed_types(entries):
        sums["bits"] = 8 * sums["bytes"] / sums["numel"].where(sums["numel"] > 0)
    return sums
