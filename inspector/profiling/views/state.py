"""The ledger of parameters and buffers as tables."""

from __future__ import annotations

from collections.abc import Iterable

from inspector.reporting.tables import Table
from inspector.tracing.record import ITEM_BYTES, StateEntry

COLUMNS = ("name", "kind", "shape", "dtype", "numel", "bytes", "trainable", "persistent", "tied")


def ledger_frame(entries: Iterable[StateEntry]) -> Table:
    """A row for each storage: name, kind, shape, dtype, numel, bytes, trainable, persistent, tied (its other
    names), and where some are kept as other tensors: stored."""
    entries = list(entries)
    frame = Table.of([_row(entry) for entry in entries], COLUMNS)
    if any(entry.stored for entry in entries):
        return frame.assign(stored=[entry.stored for entry in entries])
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


def kinds_frame(entries: Iterable[StateEntry]) -> Table:
    """Totals for each kind and dtype: kind, dtype, tensors, numel, bytes, share (of all bytes), and where
    types pack their elements, bits (of an element, scales included)."""
    entries = list(entries)
    sums: dict[tuple[str, str], list[int]] = {}
    for entry in entries:
        row = sums.setdefault((_kind(entry), entry.dtype), [0, 0, 0])
        row[0] += 1
        row[1] += entry.numel
        row[2] += entry.nbytes
    whole = sum(nbytes for _, _, nbytes in sums.values()) or 1
    rows = [
        (kind, dtype, tensors, numel, nbytes, nbytes / whole)
        for (kind, dtype), (tensors, numel, nbytes) in sorted(sums.items())
    ]
    rows.sort(key=lambda row: (-row[4], row[0]))
    frame = Table.of(rows, ("kind", "dtype", "tensors", "numel", "bytes", "share"))
    if packed_types(entries):
        bits = [8 * size / numel if numel else None for size, numel in zip(frame["bytes"], frame["numel"])]
        return frame.assign(bits=bits)
    return frame


def _kind(entry: StateEntry) -> str:
    if entry.kind == "parameter" and not entry.trainable:
        return "parameter (frozen)"
    return "buffer (not persistent)" if entry.kind == "buffer" and not entry.persistent else entry.kind
