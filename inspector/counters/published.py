"""Figures that others have published: torchvision's own, and tables that a user brings."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.counters.record import Count, Part
from inspector.models.inputs import parse_inputs
from inspector.tracing.describe import describe, describe_call
from inspector.tracing.record import Trace

COLUMNS = ("model", "input", "macs", "params")
_HINT = "a table is CSV with the columns model,input,macs,params, e.g. resnet50,1x3x224x224,4.09e9,25557032"


@dataclass(frozen=True)
class Figure:
    """One published figure: where it is published, and what it says."""

    place: str
    source: str
    count: Count


def torchvision(found: Trace, model_args: Mapping[str, Any] | None = None) -> Figure | str:
    """What torchvision publishes for the model of a trace, or why there is nothing to compare with."""
    if found.source != "torchvision":
        return "torchvision publishes no figure for this model"
    if model_args:
        return f"torchvision publishes no figure with {', '.join(model_args)}"
    if found.phase != "forward" or found.call != "forward":
        return "torchvision publishes figures for the forward pass only"
    from torchvision.models import get_model_weights

    name, _, chosen = found.model.partition("@")
    entries = get_model_weights(name)
    default = getattr(entries, "DEFAULT", None)
    asked = [getattr(entries, chosen)] if chosen else sorted(entries, key=lambda entry: entry is not default)
    for entry in asked:
        if _default_inputs(name, entry.name) == found.inputs:
            meta = entry.meta
            count = Count(round(meta["_ops"] * 1e9), meta.get("num_params"), slack=500_000)
            return Figure("published", f"torchvision.models, {name}@{entry.name}: _ops", count)
    return f"torchvision publishes no figure for this input ({' '.join(found.inputs)})"


def _default_inputs(name: str, entry: str) -> tuple[str, ...]:
    """The input of a weights entry, as a trace writes it."""
    from inspector.models import torchvision as source

    recipe = source.recipe(f"{name}@{entry}", {})
    defaults = recipe.defaults(recipe.shapes(), "forward")
    return tuple(describe(spec) for spec in (defaults.args if defaults else ()))


def table(file: Path, found: Trace) -> list[Figure]:
    """The rows of a user's table for the model and input of a trace."""
    return [
        _figure(row, f"{file.name}:{number}")
        for number, row in _rows(file)
        if row["model"].strip() == found.model and _same_input(row["input"], found, f"{file}:{number}")
    ]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InspectError(f"cannot read {file}: {error}", _HINT) from error
    reader = csv.DictReader(text.splitlines())
    absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if absent:
        raise InspectError(f"{file} has no column {absent[0]!r}", _HINT)
    for row in reader:
        if any(row[name] is None for name in COLUMNS):
            raise InspectError(f"{file}:{reader.line_num} has too few columns", _HINT)
        yield reader.line_num, row


def _same_input(text: str, found: Trace, place: str) -> bool:
    """Whether a row's input (several are separated by spaces) is that of the trace."""
    try:
        parsed = parse_inputs(text.split())
    except InspectError as error:
        raise InspectError(f"{place}: {error.message}", error.hint) from error
    return tuple(describe_call(parsed.args, parsed.kwargs)) == found.inputs


def _figure(row: dict[str, str], place: str) -> Figure:
    macs = _number(row["macs"], place)
    digit = macs.as_tuple().exponent
    assert isinstance(digit, int)
    params = row["params"].strip()
    count = Count(
        round(macs),
        round(_number(params, place)) if params else None,
        slack=round(Decimal(10) ** digit / 2) if digit > 0 else 0,
    )
    return Figure(place, place, count)


def _number(text: str, place: str) -> Decimal:
    try:
        number = Decimal(text.strip().replace("_", ""))
    except InvalidOperation as error:
        raise InspectError(f"{place}: {text.strip()!r} is not a number", _HINT) from error
    if not number.is_finite() or number < 0:
        raise InspectError(f"{place}: {text.strip()!r} is not a count", _HINT)
    return number


def explain(difference: int, count: Count) -> list[Part]:
    """A difference up to half of the last digit is the rounding."""
    if difference and abs(difference) <= count.slack:
        return [Part("", "total", "rounded figure", difference)]
    return []
