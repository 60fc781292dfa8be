"""The JSON form of a report. A new version of it touches this file alone.

History of the schema (`SCHEMA`):
    inspector.report/1  first version; a report that carries others along has them in `added`
    inspector.report/2  `columns` says unit, kind, direction and label of each column of each table; a metric
                        has its label, if it has one; there is one word for each unit (see `registry.Unit`):
                        element, op, stage and plain became count, bytes became byte, s and seconds became
                        second, relative L2 became ratio, and rate became 1/s or number
"""

from __future__ import annotations

import json
import math
import re
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from inspector.core.collection import paused
from inspector.core.errors import InspectError, first_line
from inspector.reporting.parts import STATUSES, Content, Finding, Metric
from inspector.reporting.registry import DIRECTIONS, KINDS, Quantity, Unit, column, is_missing, quantity
from inspector.reporting.tables import Table

SCHEMA = "inspector.report/2"
_METRIC_KEYS = ("value", "unit", "kind", "direction", "lower_bound", "label")
_FINDING_KEYS = ("check", "status", "subject", "message", "evidence")
_OLD_UNITS = {
    "element": Unit.COUNT, "op": Unit.COUNT, "stage": Unit.COUNT, "plain": Unit.COUNT, "bytes": Unit.BYTE,
    "s": Unit.SECOND, "seconds": Unit.SECOND, "relative L2": Unit.RATIO, "rate": Unit.NUMBER,
}  # fmt: skip
"""What version 1 called a unit."""

C = TypeVar("C", bound=Content)


def to_dict(report: Content) -> dict[str, Any]:
    """A report as plain Python values; NaN and infinity become None."""
    content = {
        "schema": SCHEMA,
        "command": report.command,
        "subject": report.subject,
        "environment": report.environment,
        "metrics": {name: _metric(name, metric) for name, metric in report.metrics.items()},
        "columns": {
            table: {name: _column(name, held) for name, held in report.columns_of(table).items()}
            for table in report.tables
        },
        "tables": {name: table.records() for name, table in report.tables.items()},
        "findings": [{key: getattr(f, key) for key in _FINDING_KEYS} for f in report.findings],
        "verdict": report.verdict,
    }
    if report.added:
        content["added"] = [to_dict(added) for added in report.added]
    return _plain(content)


def _metric(name: str, metric: Metric) -> dict[str, Any]:
    content = {"value": metric.value, **_column(name, metric)}
    if not metric.label:
        del content["label"]
    return {**content, "lower_bound": True} if metric.lower_bound else content


def _column(name: str, held: Metric | Quantity) -> dict[str, Any]:
    return {
        "unit": str(held.unit),
        "kind": held.kind,
        "direction": held.direction,
        "label": held.label or name.replace("_", " "),
    }


def _plain(value: Any) -> Any:
    """JSON values only: NumPy scalars become Python's, NaN and infinity None."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if is_missing(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def as_text(content: dict[str, Any]) -> str:
    """`to_dict` as JSON text: a row of a table, a column's meaning and a finding are one line each, so that
    two files can be compared line by line."""

    def lines(items: list[str], indent: str, ends: str) -> str:
        inner = ",\n".join(f"{indent}  {item}" for item in items)
        return f"{ends[0]}\n{inner}\n{indent}{ends[1]}" if items else ends

    def rows(values: list[Any], indent: str) -> str:
        return lines([json.dumps(row, allow_nan=False) for row in values], indent, "[]")

    def entries(values: dict[str, Any], indent: str) -> str:
        pairs = [f"{json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in values.items()]
        return lines(pairs, indent, "{}")

    def part(key: str, value: Any) -> str:
        if key == "findings":
            return rows(value, "  ")
        if key in ("tables", "columns"):
            write = rows if key == "tables" else entries
            return lines([f"{json.dumps(name)}: {write(v, '    ')}" for name, v in value.items()], "  ", "{}")
        return json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n  ")

    return lines([f"{json.dumps(key)}: {part(key, value)}" for key, value in content.items()], "", "{}")


def read_text(file: Path) -> str:
    """The text of a report's file. Raises InspectError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InspectError(
            f"no file {file}", 'name a report that `report.save("FILE.json")` wrote'
        ) from error
    except (OSError, ValueError) as error:
        raise InspectError(f"cannot read {file}: {error}", "name a JSON report") from error


def plain_content(text: str, place: str) -> dict[str, Any]:
    """The inverse of `as_text`, in the present version: whole numbers stay whole. `place` names the text in
    errors."""
    return current(values(text, place), place)


def values(text: str, place: str) -> Any:
    """The values of a JSON text, no name twice in an object. `place` names the text in errors."""
    try:
        with paused():
            return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InspectError(
            f"{place} is not a complete JSON file: {first_line(error)}",
            'write it again with `report.save("FILE.json")`',
        ) from error


def current(content: Any, place: str) -> dict[str, Any]:
    """The content of a report in the present version of the schema. Raises InspectError for what is no
    report, or one of a newer version; of the content nothing else is checked."""
    schema = content.get("schema") if isinstance(content, dict) else None
    version = _version(schema, place)
    try:
        return _from_version_1(content) if version < 2 else dict(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(place, schema, error) from error


def broken(place: str, schema: Any, error: Exception) -> InspectError:
    """The error of a report that does not keep to its schema."""
    return InspectError(
        f"{place} says {schema} but does not follow it: {type(error).__name__}: {error}",
        'write it again with `report.save("FILE.json")`',
    )


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice in it")
    return content


def _version(schema: Any, place: str) -> int:
    family, _, newest = SCHEMA.partition("/")
    kind, _, version = str(schema).partition("/")
    major = version.partition(".")[0]
    if kind != family or not re.fullmatch("[0-9]{1,9}", major):
        reason = f"its schema is {schema!r}" if schema is not None else "it names no schema"
        raise InspectError(f"{place} is not an inspector report: {reason}", f"a report says {SCHEMA!r}")
    if int(major) > int(newest):
        raise InspectError(
            f"{place} has the schema {schema}, newer than {SCHEMA}", "install a newer inspector"
        )
    return int(major)


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 as version 2: one word for each unit, and columns as the registry knows them."""
    metrics = {name: {**metric, "unit": _unit(name, metric)} for name, metric in content["metrics"].items()}
    columns = {
        table: {
            name: _column(name, column(table, name, (row.get(name) for row in rows)))
            for name in dict.fromkeys(chain.from_iterable(rows))
        }
        for table, rows in content["tables"].items()
    }
    newer = {**content, "schema": SCHEMA, "metrics": metrics, "columns": columns}
    if "added" in content:
        newer["added"] = [_from_version_1(added) for added in content["added"]]
    return newer


def _unit(name: str, metric: dict[str, Any]) -> Any:
    unit = metric["unit"]
    if unit == "rate":
        return quantity(name).unit or Unit.NUMBER
    return _OLD_UNITS.get(unit, unit)


def restored(make: type[C], content: dict[str, Any], place: str) -> C:
    """The report that `to_dict` described, without header, sections and charts. Raises InspectError where
    the content does not keep to its schema."""
    try:
        _check_models(content["tables"].get("models", []))
        metrics = {name: _read_metric(metric) for name, metric in content["metrics"].items()}
        columns = {
            table: {name: _read_column(table, name, entry) for name, entry in entries.items()}
            for table, entries in content["columns"].items()
        }
        return make(
            command=str(content["command"]),
            subject=dict(content["subject"]),
            environment=dict(content["environment"]),
            metrics=metrics,
            tables={
                name: Table.of(rows, None if rows else columns.get(name, ()))
                for name, rows in content["tables"].items()
            },
            findings=[_read_finding(finding) for finding in content["findings"]],
            verdict=str(content["verdict"]),
            added=[restored(make, added, place) for added in content.get("added", [])],
            columns=columns,
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise broken(place, content.get("schema"), error) from error


def _check_models(rows: list[dict[str, Any]]) -> None:
    """Raise ValueError where two rows of a table of models have one name."""
    names = set[Any]()
    for row in rows:
        if "spec" in row and row["model"] in names:
            raise ValueError(f"two rows are called {row['model']!r}")
        names.add(row.get("model"))


def _read_metric(content: dict[str, Any]) -> Metric:
    metric = Metric(**{key: content[key] for key in _METRIC_KEYS if key in content})
    value = metric.value
    if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
        raise ValueError(f"the metric {value!r} is not a number")
    _check("a metric", metric)
    return metric


def _read_column(table: str, name: str, content: dict[str, Any]) -> Quantity:
    """What a column holds by the file; the registry adds how it is written, where it means the same."""
    held = Quantity(content["unit"], content["kind"], content["direction"], content.get("label", ""))
    _check("a column", held)
    entry = column(table, name)
    return Quantity(**{**vars(held), "own_form": entry.own_form}) if entry.unit == held.unit else held


def _check(what: str, held: Metric | Quantity) -> None:
    if held.kind not in KINDS or held.direction not in DIRECTIONS or not isinstance(held.unit, str):
        raise ValueError(f"{what} of kind {held.kind!r}, direction {held.direction!r} in {held.unit!r}")
    if not isinstance(held.label, str):
        raise ValueError(f"the label {held.label!r} is not text")


def _read_finding(content: dict[str, Any]) -> Finding:
    finding = Finding(**content)
    if finding.status not in STATUSES:
        raise ValueError(f"a finding with the status {finding.status!r}")
    if not all(isinstance(text, str) for text in (finding.check, finding.subject, finding.message)):
        raise ValueError("a finding whose check, subject or message is not text")
    return finding
