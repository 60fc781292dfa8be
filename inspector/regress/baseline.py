"""Updating a baseline: HEAD's rows where they differ, everything else as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.files import write_whole
from inspector.regress.compare import WHOLE, Comparison
from inspector.regress.source import GIT
from inspector.reporting.schema import as_text

_BY_MODEL = ("models", "layers", "ops", "stages", "rounds")


def update(file: str, found: Comparison) -> tuple[Path, list[str]]:
    """Write HEAD's version of every row that changed into `file`, whole or not at all; returns the path
    and the names of the rows. A row that HEAD could not count, or has no sound number for, stays as it is.

    Raises InspectError where `file` cannot be a baseline.
    """
    if file.startswith(GIT):
        raise InspectError(f"{file} is in git's history: it cannot be written", "name a file as BASE")
    changed, gone = _changed(found)
    if changed or gone:
        base, content = found.base.content, found.head.content
        if base["command"] == "table":
            content = merged_tables(base, content, changed, gone)
        write_whole(file, as_text(content) + "\n")
    return Path(file), sorted({*changed, *gone})


def _changed(found: Comparison) -> tuple[set[str], set[str]]:
    """The rows to take from HEAD, and those to drop."""
    gone = {c.model for c in found.changes if c.metric == WHOLE and c.state == "missing"}
    bad = {change.model for change in found.changes if change.state == "invalid"}
    moved = {
        change.model
        for change in found.changes
        if change.state in ("regressed", "missing", "incomparable", "new", "improved")
        or (change.state == "ok" and change.delta)
    }
    return moved - bad - gone, gone


def merged_tables(
    base: dict[str, Any],
    head: dict[str, Any],
    changed: set[str],
    gone: set[str] = frozenset(),  # type: ignore[assignment]
) -> dict[str, Any]:
    """BASE's table with HEAD's rows of `changed`, in BASE's order and then HEAD's, without `gone`."""
    old, new = base["tables"], head["tables"]
    names = [row["model"] for row in old["models"] if row["model"] not in gone]
    names += [row["model"] for row in new["models"] if row["model"] in changed and row["model"] not in names]
    tables: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    for table in _BY_MODEL:
        by_model: dict[str, list[Any]] = {}
        for content, wanted in ((old, lambda name: name not in changed), (new, lambda name: name in changed)):
            for row in content.get(table, []):
                if wanted(row["model"]):
                    by_model.setdefault(row["model"], []).append(row)
        rows = [row for name in names for row in by_model.get(name, [])]
        if rows:
            tables[table] = rows
            columns[table] = base["columns"].get(table, {}) | head["columns"].get(table, {})
    errors = [row for row in tables.get("models", []) if row["error"]]
    counts = {"models": len(names), "failed": len(errors)}
    metrics = {name: {**base["metrics"][name], "value": count} for name, count in counts.items()}
    return {
        **base,
        "environment": head["environment"] if changed else base["environment"],
        "metrics": {**base["metrics"], **metrics},
        "columns": columns,
        "tables": tables,
        "findings": [f for f in base["findings"] if f["subject"] in {row["model"] for row in errors}],
        "verdict": "fail" if errors else "none",
    }
