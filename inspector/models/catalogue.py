"""The catalogue of models that have a name."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.models import timm, torchvision
from inspector.reporting.registry import TEXT, Form, Quantity, Unit
from inspector.reporting.report import Finding, Report, Section, environment, metrics
from inspector.reporting.tables import Table

SOURCES = {"torchvision": torchvision, "timm": timm}
_AS_PUBLISHED = {"params": Quantity(Unit.COUNT, own_form=Form.NUMBER), "entries": TEXT}


def models(query: str | None = None, *, source: str | None = None) -> Report:
    """torchvision's and (where installed) timm's models whose spec matches `query`: a part of the
    name or a glob. `params` and `gmacs` are what torchvision publishes for the default entry."""
    if source is not None and source not in SOURCES:
        raise InspectError(f"no source is called {source!r}", f"use one of: {', '.join(SOURCES)}")
    rows = list(_rows(source))
    chosen = [row for row in rows if query is None or _matches(row["spec"], query)]
    if not chosen:
        names = [row["spec"].rpartition(":")[2] for row in rows]
        raise InspectError(f"no model matches {query!r}", nearest(query or "", names))
    frame = Table.of(chosen, ("spec", "source", "task", "params", "gmacs", "entries"))
    findings = []
    if source is None and find_spec("timm") is None:
        findings.append(
            Finding("timm", "skip", "", "timm is not installed: pip install 'torch-inspector[timm]'")
        )
    return Report(
        command="models",
        subject={"name": query or "*", "source": source or "all"},
        environment=environment(),
        metrics=metrics({"models": len(frame)}),
        tables={"models": frame},
        findings=findings,
        sections=[
            Section(
                "models (parameters and GMACs as torchvision publishes them)", frame, columns=_AS_PUBLISHED
            )
        ],
    )


def _rows(source: str | None) -> Iterator[dict[str, Any]]:
    for name, place in SOURCES.items():
        if source == name or (source is None and (name != "timm" or find_spec("timm"))):
            yield from place.rows()


def _matches(spec: str, query: str) -> bool:
    name = spec.rpartition(":")[2]
    spec, name, query = spec.lower(), name.lower(), query.lower()
    return query in spec or fnmatch(name, query) or fnmatch(spec, query)
