"""What a report consists of: plain data, which every format renders."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inspector.reporting.registry import TEXT, Quantity, column, quantity
from inspector.reporting.tables import Table, as_table

STATUSES = ("pass", "fail", "warn", "skip")


@dataclass(frozen=True)
class Metric:
    """One number. `unit` is a value of `registry.Unit`; `kind` (exact, toleranced, noisy) decides how it is
    compared, `direction` which way is better (lower, higher, none). `value` None means unknown;
    `lower_bound` that the true value may be higher, because some operators have no formula. Without `shown`,
    only machine-readable forms hold it: a table says it to people."""

    value: int | float | None
    unit: str
    kind: str = "exact"
    direction: str = "lower"
    lower_bound: bool = False
    label: str = ""
    shown: bool = True


def metric(name: str, value: int | float | None, *, lower_bound: bool = False, **other: str) -> Metric:
    """The metric called `name`, as the registry knows it; `other` is what differs here (kind, direction,
    label). One of a row of a table, `train/8/fp32/latency`, is not shown: the table is."""
    entry, of_row = quantity(name), "/" in name
    if entry is TEXT:
        raise KeyError(f"the registry has no metric {name!r}")
    made = Metric(
        value, entry.unit, entry.kind, entry.direction, lower_bound,
        "" if of_row else entry.label, entry.shown and not of_row,
    )  # fmt: skip
    return replace(made, **other)  # type: ignore[arg-type]


def metrics(values: Mapping[str, int | float | None], lower_bounds: Container[str] = ()) -> dict[str, Metric]:
    """The metrics of these names and values."""
    return {name: metric(name, value, lower_bound=name in lower_bounds) for name, value in values.items()}


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

    @property
    def sentence(self) -> str:
        """The message, with its subject in front where it has one and does not begin with it."""
        if not self.subject or self.message.startswith(f"{self.subject} "):
            return self.message
        colon = "" if self.message.startswith("and ") else ":"  # a.weight and 3 more
        return f"{self.subject}{colon} {self.message}"


@dataclass(frozen=True)
class Section:
    """A table as people read it: `columns` says what those hold that the registry does not know by name."""

    title: str
    frame: Table
    note: str = ""
    columns: Mapping[str, Quantity] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", as_table(self.frame))

    def quantity(self, column: str) -> Quantity:
        """What a column holds."""
        return self.columns.get(column) or quantity(column)


@dataclass(frozen=True)
class Chart:
    """A picture of some columns of a table: `kind` is a file of `formats/html/charts/`, `x` and `y` its
    columns, `group` the column that tells series apart, `low` and `high` those of an interval of y, `label`
    that of a text at each point, `hover` those that pointing at it shows.

    area: the columns `choices` on top of each other over x, in the unit of `y`; the reader can leave out the
    one called `optional`. icicle: a row for each node, `x` the column of its path, `group` that of its
    parent's, `color` that of what its colour stands for, drawn by `y` or, as the reader switches, by one of
    `choices`. graph: nodes, and `edges` between them (see `architecture_frames`). spans: a row for each piece
    of time from `low` to `high`, `y` its depth.

    `section` is the title of the section that the chart belongs to, `after` that of the one behind which it
    stands as a part of its own; without either it comes first. Only the HTML form draws it; the numbers are
    in `tables`."""

    kind: str
    title: str
    x: str
    y: str
    frame: Table
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
    section: str = ""
    after: str = ""
    optional: str = ""
    edges: Table | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", as_table(self.frame))


@dataclass
class Content:
    """All that a report holds, for formats to render (see `Report`).

    `tables` are complete and machine-readable; `sections` are the selections of them that the text,
    markdown, CSV and HTML forms show. `header` are the lines of provenance above the numbers, `added` the
    reports of other commands that this one carries along. `columns` says what the columns of a table hold
    where the report was read from a file; the registry knows the others. `more_charts` makes the charts that
    cost more than a terminal should wait for.
    """

    command: str
    subject: dict[str, Any]
    environment: dict[str, Any]
    metrics: dict[str, Metric]
    tables: dict[str, Table] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    verdict: str = "none"
    header: list[tuple[str, str]] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    added: list[Any] = field(default_factory=list)
    columns: dict[str, dict[str, Quantity]] = field(default_factory=dict)
    more_charts: Callable[[], list[Chart]] = field(default=list, compare=False, repr=False)

    def __post_init__(self) -> None:
        self.tables = {name: as_table(table) for name, table in self.tables.items()}

    @property
    def original(self) -> Content:
        """The report itself, where this is what is shown of one."""
        return self

    @property
    def title(self) -> str:
        """The command, and what it was run on."""
        return f"inspect {self.command}: {self.subject.get('name', '')}"

    def columns_of(self, table: str) -> dict[str, Quantity]:
        """What each column of a table holds: as the file says, else as the registry does."""
        content, read = self.tables[table], self.columns.get(table, {})
        return {name: read.get(name) or column(table, name, content[name]) for name in content}
