"""The ledger of parameters and buffers as tables."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from inspector.tracing.record import StateEntry

COLUMNS = ("name", "kind", "shape", "dtype", "numel", "bytes", "trainable", "persistent", "tied")


def ledger_frame(entries: Iterable[StateEntry]) -> pd.DataFrame:
    """A row for each storage: name, kind, shape, dtype, numel, bytes, trainable, persistent, tied
    (its other names)."""
    rows = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "shape": "x".join(map(str, entry.shape)) or "scalar",
            "dtype": entry.dtype,
            "numel": entry.numel,
            "bytes": entry.nbytes,
            "trainable": entry.trainable,
            "persistent": entry.persistent,
            "tied": ", ".join(entry.aliases),
        }
        for entry in entries
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def kinds_frame(entries: Iterable[StateEntry]) -> pd.DataFrame:
    """Totals for each kind and dtype: kind, dtype, tensors, numel, bytes, share (of all bytes)."""
    frame = ledger_frame(entries)
    kind = frame["kind"].where(frame["kind"] != "parameter", "parameter")
    frozen = (frame["kind"] == "parameter") & ~frame["trainable"].astype(bool)
    volatile = (frame["kind"] == "buffer") & ~frame["persistent"].astype(bool)
    kind = kind.mask(frozen, "parameter (frozen)").mask(volatile, "buffer (not persistent)")
    grouped = frame.assign(kind=kind).groupby(["kind", "dtype"], sort=True)
    sums = grouped.agg(tensors=("name", "size"), numel=("numel", "sum"), bytes=("bytes", "sum"))
    sums = sums.reset_index().sort_values(["bytes", "kind"], ascending=[False, True])
    sums["share"] = sums["bytes"] / (sums["bytes"].sum() or 1)
    return sums
