"""Reports whose names and messages cannot act on what shows them: the one way into every text format."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from inspector.core.visible import visible
from inspector.reporting.parts import Content
from inspector.reporting.tables import Table


@dataclass
class Harmless(Content):
    """What is shown of a report, every text in it made visible; `tables` are the report's own."""

    report: Content | None = None

    @property
    def original(self) -> Content:
        """The report itself, for the JSON that a page carries along."""
        return self.report or self


def harmless(report: Content) -> Content:
    """A copy for people: each control character of its texts is an escape (see `visible`)."""
    values = {part.name: getattr(report, part.name) for part in fields(Content)}
    shown = {name: _shown(value) for name, value in values.items() if name not in ("tables", "added")}
    shown["added"] = [harmless(one) for one in report.added]
    shown["more_charts"] = lambda: _shown(report.more_charts())
    return Harmless(**{**values, **shown, "report": report})


def _shown(value: Any) -> Any:
    """The same value with every text in it made visible."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_shown, value))
    if isinstance(value, dict):
        return {_shown(key): _shown(entry) for key, entry in value.items()}
    if isinstance(value, Table):
        return Table({_shown(name): map(_shown, value[name]) for name in value})
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return replace(value, **{part.name: _shown(getattr(value, part.name)) for part in fields(value)})
    return value
