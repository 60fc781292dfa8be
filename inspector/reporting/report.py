"""What every command returns: a `Report` of metrics, tables and findings, and its JSON form.

History of the JSON schema (`SCHEMA`):
    inspector.report/1  first version; a report that carries others along has them in `added`
"""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.core.errors import InspectError

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "inspector.report/1"
KINDS = ("exact", "toleranced", "noisy")
_METRIC_KEYS = ("value", "unit", "kind", "direction", "lower_bound")
_FINDING_KEYS = ("check", "status", "subject", "message", "evidence")
STATUSES = ("pass", "fail", "warn", "skip")


@dataclass(frozen=True)
class Metric:
    """One number. `kind` (exact, toleranced, noisy) decides how it is compared, `direction` which
    way is better (lower, higher, none). `value` None means unknown; `lower_bound` that the true
    value may be higher, because some operators have no formula. Without `shown`, only machine-readable
    forms hold it: a table says it to people."""

    value: int | float | None
    unit: str
    kind: str = "exact"
    direction: str = "lower"
    lower_bound: bool = False
    label: str = ""
    shown: bool = True


@dataclass(frozen=True)
class Finding:
    """The outcome of one check, or a fact that a reader must know: status pass, fail, warn or skip.
    Without `shown`, only machine-readable forms hold it: a table says it to people."""

    check: str
    status: str
    subject: str
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)
    shown: bool = True


@dataclass(frozen=True)
class Section:
    """A table as people read it: `units` says how each column is written (see render.numbers)."""

    title: str
    frame: pd.DataFrame
    units: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A picture of some columns of a table: `kind` bar, scatter, line, area (lines on top of each other) or
    icicle, `x` and `y` its columns, `group` the column that tells series apart, `low` and `high` those of an
    interval of y, `label` that of a text at each point, `hover` those that pointing at it shows, `units` how
    their values are written. An icicle has a row for each node, `x` the column of its path, `group` that of
    its parent's, `color` that of what its colour stands for (missing: grey), and is drawn by `y` or, as the
    reader switches, by one of `choices`. `section` is the title of the section that the chart belongs to.
    Only the HTML form draws it; the numbers are in `tables`."""

    kind: str
    title: str
    x: str
    y: str
    frame: pd.DataFrame
    group: str | None = None
    low: str | None = None
    high: str | None = None
    label: str | None = None
    log_x: bool = False
    log_y: bool = False
    note: str = ""
    choices: tuple[str, ...] = ()
    color: str | None = None
    hover: tuple[str, ...] = ()
    units: dict[str, str] = field(default_factory=dict)
    section: str = ""


@dataclass
class Report:
    """The result of a command.

    `tables` are complete and machine-readable; `sections` are the selections of them that the text,
    markdown, CSV and HTML forms show. `header` are the lines of provenance above the numbers, `added` the
    reports of other commands that this one carries along.
    """

    command: str
    subject: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, Metric]
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    verdict: str = "none"
    header: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    added: list[Report] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON contract as plain Python values; NaN and infinity become None."""
        content = {
            "schema": SCHEMA,
            "command": self.command,
            "subject": self.subject,
            "environment": self.environment,
            "metrics": {name: _metric(metric) for name, metric in self.metrics.items()},
            "tables": {name: frame.to_dict("records") for name, frame in self.tables.items()},
            "findings": [{key: getattr(f, key) for key in _FINDING_KEYS} for f in self.findings],
            "verdict": self.verdict,
        }
        if self.added:
            content["added"] = [report.to_dict() for report in self.added]
        return _plain(content)

    def to_json(self) -> str:
        """`to_dict` as text: a row of a table and a finding are one line each, so that two files can be
        compared line by line."""
        return as_text(self.to_dict())

    @staticmethod
    def read(file: str | Path) -> Report:
        """A report from the JSON file that some command wrote, without header, sections and charts: those
        are not in the file. Raises InspectError for a file that is missing, torn, of another kind or of a
        newer major version of the schema."""
        return from_json(read_text(Path(file)), str(file))

    def save(self, file: str | Path) -> Path:
        """Write the report, whole or not at all, in the format of the file's suffix: .html, .json, .md,
        .csv, .txt."""
        from inspector.core.files import write_whole
        from inspector.reporting.formats import format_of

        return write_whole(file, self.written(format_of(file)))

    def written(self, form: str, color: bool = False, width: int | None = None) -> str:
        """The report as text in one of `inspector.reporting.formats.FORMATS`; `color` and `width` are the
        terminal's, for a table."""
        from inspector.reporting.formats import renderer

        return renderer(form)(self, color, width) if form == "table" else renderer(form)(self)

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """One table as a DataFrame: the first one, or the one named (see `tables`)."""
        if not self.tables:
            raise InspectError(f"a {self.command} report has no tables")
        name = table or next(iter(self.tables))
        if name not in self.tables:
            raise InspectError(f"no table is called {name!r}", f"there are: {', '.join(self.tables)}")
        return self.tables[name]

    def __str__(self) -> str:
        from inspector.reporting.formats.text import render

        return render(self, color=False)

    def __repr__(self) -> str:
        numbers = ", ".join(f"{name}={metric.value}" for name, metric in self.metrics.items())
        return f"<Report {self.command} {self.subject.get('name', '')}: {numbers}>"

    def _repr_html_(self) -> str:
        from inspector.reporting.formats.html import fragment

        return fragment(self)


def from_json(text: str, place: str) -> Report:
    """The inverse of `Report.to_json`; `place` names the text in errors (see `Report.read`)."""
    return _from_dict(plain_content(text, place), place)


def _from_dict(content: Any, place: str) -> Report:
    import pandas as pd

    _check_schema(content, place)
    try:
        return Report(
            command=str(content["command"]),
            subject=dict(content["subject"]),
            environment=dict(content["environment"]),
            metrics={name: _read_metric(metric) for name, metric in content["metrics"].items()},
            tables={name: pd.DataFrame(rows) for name, rows in content["tables"].items()},
            findings=[_read_finding(finding) for finding in content["findings"]],
            verdict=str(content["verdict"]),
            added=[_from_dict(entry, place) for entry in content.get("added", [])],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InspectError(
            f"{place} says {SCHEMA} and does not keep to it: {type(error).__name__}: {error}",
            'make it anew with `report.save("FILE.json")`',
        ) from error


def _read_metric(content: dict[str, Any]) -> Metric:
    metric = Metric(**{key: content[key] for key in _METRIC_KEYS if key in content})
    value = metric.value
    if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value)):
        raise ValueError(f"the metric {value!r} is no number")
    if metric.kind not in KINDS or not isinstance(metric.unit, str):
        raise ValueError(f"a metric of kind {metric.kind!r} in {metric.unit!r}")
    return metric


def _read_finding(content: dict[str, Any]) -> Finding:
    finding = Finding(**content)
    if finding.status not in STATUSES:
        raise ValueError(f"a finding with the status {finding.status!r}")
    if not all(isinstance(text, str) for text in (finding.check, finding.subject, finding.message)):
        raise ValueError("a finding whose words are no text")
    return finding


def plain_content(text: str, place: str) -> dict[str, Any]:
    """What `Report.to_dict` gave, from JSON text: whole numbers stay whole. Only the schema is checked."""
    try:
        content = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        raise InspectError(
            f"{place} is no whole JSON file: {error}", 'make it anew with `report.save("FILE.json")`'
        ) from error
    _check_schema(content, place)
    return dict(content)


def as_text(content: dict[str, Any]) -> str:
    """The inverse of `plain_content`."""

    def lines(rows: list[Any], indent: str) -> str:
        inner = ",\n".join(f"{indent}  {json.dumps(row, allow_nan=False)}" for row in rows)
        return f"[\n{inner}\n{indent}]" if rows else "[]"

    def part(key: str, value: Any) -> str:
        if key == "findings":
            return lines(value, "  ")
        if key == "tables" and value:
            tables = [f"    {json.dumps(name)}: {lines(rows, '    ')}" for name, rows in value.items()]
            return "{\n" + ",\n".join(tables) + "\n  }"
        return json.dumps(value, indent=2, allow_nan=False).replace("\n", "\n  ")

    parts = [f"  {json.dumps(key)}: {part(key, value)}" for key, value in content.items()]
    return "{\n" + ",\n".join(parts) + "\n}"


def read_text(file: Path) -> str:
    """The text of a report's file. Raises InspectError where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InspectError(
            f"no file {file}", 'name a report that `report.save("FILE.json")` wrote'
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InspectError(f"cannot read {file}: {error}", "name a JSON report") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_schema(content: Any, place: str) -> None:
    schema = content.get("schema") if isinstance(content, dict) else None
    family, _, version = SCHEMA.partition("/")
    kind, _, found = str(schema).partition("/")
    if kind != family or not found.partition(".")[0].isdigit():
        said = f"its schema is {schema!r}" if schema is not None else "it names no schema"
        raise InspectError(f"{place} is no report of inspector: {said}", f"a report says {SCHEMA!r}")
    if int(found.partition(".")[0]) > int(version):
        raise InspectError(
            f"{place} has the schema {schema}, newer than {SCHEMA}", "install a newer inspector"
        )


def environment(**more: Any) -> dict[str, Any]:
    """Versions and platform; packages that are not imported are not named."""
    import sys

    from inspector.core.version import __version__

    versions: dict[str, Any] = {
        name: str(getattr(sys.modules[name], "__version__", None))
        for name in ("torch", "torchvision", "timm", "transformers")
        if name in sys.modules
    }
    return {
        "inspector": __version__,
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "gpu": None,
        **more,
    }


def _metric(metric: Metric) -> dict[str, Any]:
    content = {
        "value": metric.value,
        "unit": metric.unit,
        "kind": metric.kind,
        "direction": metric.direction,
    }
    return {**content, "lower_bound": True} if metric.lower_bound else content


def _plain(value: Any) -> Any:
    """JSON values only: NumPy scalars become Python's, NaN and infinity None."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return str(value)
