"""What lies behind a changed digest or count."""

from __future__ import annotations

from inspector.regress.content import Row
from inspector.regress.layers import moved

SHOWN = 3


def why_changed(metric: str, base: Row, head: Row) -> str:
    """The first few differences behind a metric that is a summary of a list; empty for other metrics."""
    if metric in ("ops", "ops_digest"):
        return _few(_operators(base.ops, head.ops))
    if metric in ("stages", "stages_digest"):
        return _few(_lines(base.stages, head.stages))
    if metric in ("state_keys", "state_digest"):
        return _few(_renamed(base, head))
    return ""


def _operators(base: dict[str, int], head: dict[str, int]) -> list[str]:
    names = [name for name in sorted({*base, *head}) if base.get(name, 0) != head.get(name, 0)]
    names.sort(key=lambda name: -abs(head.get(name, 0) - base.get(name, 0)))
    return [f"{name} {base.get(name, 0)} to {head.get(name, 0)} calls" for name in names]


def _lines(base: list[str], head: list[str]) -> list[str]:
    there = set(base)
    return [line for line in head if line not in there] or [f"no {line}" for line in base if line not in head]


def _renamed(base: Row, head: Row) -> list[str]:
    if base.layers is None or head.layers is None:
        return []
    changes = moved(base.layers, head.layers)
    shapes = [c for c in changes if not c.renamed and c.base and c.head and c.base.shape != c.head.shape]
    return (
        [f"{_name(c.base.path)} is now {_name(c.path)}" for c in changes if c.renamed and c.base]
        + [f"{_name(c.path)} {c.base.shape} to {c.head.shape}" for c in shapes if c.base and c.head]
        + [f"{_name(c.path)} is new" for c in changes if c.base is None]
        + [f"{_name(c.path)} is gone" for c in changes if c.head is None]
    )


def _name(path: str) -> str:
    return path or "the model itself"


def _few(differences: list[str]) -> str:
    more = f", and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return ", ".join(differences[:SHOWN]) + more
