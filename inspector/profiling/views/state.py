"""The ledger of parameters and buffers as tables."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from inspector.tracing.record import StateEntry

COLUMNS = ("name", "kind", "shape", "dtype", "numel", "bytes", "trainable", "persistent", "tied")


def ledger_frame(entries: Iterable[StateEntry]) -> pd.DataFrame:
    """A row for each storage: name, kind, shape, dtype, numel, bytes, trainable, persistent, tied
    (its other names)."""
    return pd.DataFrame([_row(entry) for entry in entries], columns=list(COLUMNS))


def _row(entry: StateEntry) -> tuple[object, ...]:
    shape, tied = "x".join(map(str, entry.shape)) or "scalar", ", ".join(entry.aliases)
    numbers = entry.numel, entry.nbytes, entry.trainable, entry.persistent
    return entry.name, entry.kind, shape, entry.dtype, *numbers, tied


def kinds_frame(entries: Iterable[StateEntry]) -> pd.DataFrame:
    """Totals for each kind and dtype: kind, dtype, tensors, numel, bytes, share (of all bytes)."""
    frame = ledger_frame(entries)
    frozen = (frame["kind"] == "parameter") & ~frame["trainable"].astype(bool)
    volatile = (frame["kind"] == "buffer") & ~frame["persistent"].astype(bool)
    kind = frame["kind"].mask(frozen, "parameter (frozen)").mask(volatile, "buffer (not persistent)")
    grouped = frame.assign(kind=kind).groupby(["kind", "dtype"], sort=True)
    sums = grouped.agg(tensors=("name", "size"), numel=("numel", "sum"), bytes=("bytes", "sum"))
    sums = sums.reset_index().sort_values(["bytes", "kind"], ascending=[False, True])
    sums["share"] = sums["bytes"] / (sums["bytes"].sum() or 1)
    return sums
