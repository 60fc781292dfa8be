"""A comparison in each format, cut to what its reader can handle, and always saying what was cut."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from inspector.core.errors import InspectError
from inspector.regress.annotations import annotated
from inspector.regress.compare import Comparison
from inspector.regress.outcome import fitted, report

COMMENT_LIMIT = 65_536
"""GitHub's limit of a comment, in characters; we keep to it in bytes."""
SUMMARY_LIMIT = 2**20
"""GitHub's limit of a step's summary, in bytes: over it the whole summary is dropped."""
LEAST_SUMMARY = 2_000
"""With less room than this a summary would say nothing useful."""
SHOWN = {"table": 100, "html": 2_000}
"""Rows of forms that people scroll through. JSON, CSV, JUnit have all; annotations choose themselves."""


def write(
    found: Comparison, form: str, color: bool = False, width: int | None = None, every: bool = False
) -> str:
    """The comparison as text in one of the formats of `inspector.reporting.formats`. `every`: people also
    see what is ok, and each module that changed."""
    if form == "markdown":
        return markdown(found, COMMENT_LIMIT, every)
    made = report(found, SHOWN.get(form), plain=form == "csv", every=every)
    if form == "html":
        from inspector.regress.growth import charts

        made = replace(made, charts=charts(found))
    return (annotated(made, found) if form == "github" else made).written(form, color, width)


def markdown(found: Comparison, limit: int, every: bool = False) -> str:
    """The worst changes that fit into `limit` bytes."""
    from inspector.reporting.formats import renderer

    return fitted(found, renderer("markdown"), limit, every=every)


def add_to_summary(found: Comparison, file: str | Path) -> bool:
    """Append the comparison to a GitHub step summary, under its limit together with what is there. False
    where there is no room left. Raises InspectError where it cannot be written."""
    place = Path(file)
    try:
        room = SUMMARY_LIMIT - (place.stat().st_size if place.exists() else 0)
        if room < LEAST_SUMMARY:
            return False
        with place.open("a", encoding="utf-8") as stream:
            stream.write(markdown(found, room - 1) + "\n")
    except OSError as error:
        raise InspectError(
            f"cannot append to {os.fspath(place)}: {error.strerror or error}", "unset GITHUB_STEP_SUMMARY"
        ) from error
    return True
