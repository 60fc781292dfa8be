"""A report as the comparison sees it: rows of numbers, each with the question that it answers.

Read from plain JSON values, so that whole numbers stay whole and nothing heavy is imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from inspector.regress.later import Later
from inspector.reporting.registry import QUANTITIES
from inspector.reporting.schema import broken, current

Scalar = int | float | str | None


@dataclass(frozen=True)
class Number:
    """One value: a number, a digest, or None for unknown. `lower_bound`: the true value may be higher."""

    value: Scalar
    unit: str = ""
    kind: str = "exact"
    direction: str = "lower"
    lower_bound: bool = False


class Layer(NamedTuple):
    """A module that holds parameters or runs contractions itself; its numbers are its own."""

    path: str
    type: str
    shape: str
    calls: int
    params: int
    macs: int


class Round(NamedTuple):
    """One visit of a measurement: when it began (seconds of the epoch), the median seconds of a call, the
    CPU's seconds of a call (None on a GPU), and in which job."""

    start: float
    latency: float
    cpu_time: float | None
    job: str


@dataclass
class Details:
    """What explains a change of a model's numbers."""

    layers: list[Layer] | None = None
    ops: dict[str, int] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)


@dataclass
class Row:
    """One model: what was asked of it, its numbers, its checks, and what explains a change of them."""

    name: str
    question: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, Number] = field(default_factory=dict)
    checks: dict[str, str] = field(default_factory=dict)
    error: str = ""
    rounds: list[Round] = field(default_factory=list)
    details: Callable[[], Details] = Details

    @property
    def layers(self) -> list[Layer] | None:
        """Its layers; None where the report does not list any."""
        return self.details().layers

    @property
    def ops(self) -> dict[str, int]:
        """The calls of each operator."""
        return self.details().ops

    @property
    def stages(self) -> list[str]:
        """A line for each stage."""
        return self.details().stages


@dataclass
class Side:
    """One of the two reports of a comparison; `place` names it to people."""

    place: str
    command: str
    subject: dict[str, Any]
    environment: dict[str, Any]
    rows: dict[str, Row]
    content: dict[str, Any]


_LEFT_OUT = {"causal_macs"}
"""Registered metrics that a table of models does not compare."""


def compared(names: Container[str]) -> list[str]:
    """Those of `names` that a table of models compares, in the order of the registry."""
    return [name for name in QUANTITIES if name in names and name not in _LEFT_OUT]


ALONE = ""
"""The name of the only row of a report that is not a table: two are compared whatever their subjects."""


def side(content: dict[str, Any], place: str) -> Side:
    """The rows of a report's JSON content. Raises InspectError where it does not keep to its schema."""
    content = current(content, place)
    try:
        _of(dict, content["columns"])
        rows = _table(content, place) if content["command"] == "table" else {ALONE: _single(content)}
        return Side(
            place,
            _of(str, content["command"]),
            _of(dict, content["subject"]),
            _of(dict, content["environment"]),
            rows,
            content,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise broken(place, content.get("schema"), error) from error


def _single(content: dict[str, Any]) -> Row:
    subject, tables = _of(dict, content["subject"]), _of(dict, content["tables"])
    findings = [_of(dict, finding) for finding in _of(list, content["findings"])]
    layers = tables.get("layers")
    details = Details(None if layers is None else _layers(layers), _calls(tables.get("ops", [])))
    notes = [_of(str, f["message"]) for f in findings if f["check"] == "provenance"]
    return Row(
        name=str(subject.get("name", "")),
        question=_question(subject, notes),
        numbers={name: _number(metric) for name, metric in _of(dict, content["metrics"]).items()},
        checks=_checks(findings),
        details=lambda: details,
    )


def _question(asked: dict[str, Any], notes: Iterable[str]) -> dict[str, str]:
    return {
        "inputs": " ".join(map(str, asked.get("inputs") or ())),
        "phase": str(asked.get("phase") or ""),
        "call": str(asked.get("call") or "forward"),
        "serving": " ".join(f"{name}={value}" for name, value in (asked.get("serving") or {}).items()),
        "counted": "; ".join(sorted(map(_claim, notes))),
    }


def _claim(note: str) -> str:
    """What a note claims: its first words and the figures that it assumes.

    Two versions may word a note differently, and an error of torch that it quotes says nothing of
    the count.
    """
    head = re.split("[,:;]", note, maxsplit=1)[0]
    assumed = note[len(head) :].partition(";")[0] if not head.startswith("counted on") else ""
    return " ".join((head, *re.findall(r"\d+", assumed)))


def _number(metric: Any) -> Number:
    return Number(
        _value(metric["value"]),
        _of(str, metric["unit"]),
        _one_of(metric["kind"], ("exact", "toleranced", "noisy")),
        _one_of(metric["direction"], ("lower", "higher", "none")),
        bool(metric.get("lower_bound", False)),
    )


def _checks(findings: list[dict[str, Any]]) -> dict[str, str]:
    """The worst status of each check that can fail: a remark (`warn`) is no claim."""
    worst: dict[str, str] = {}
    for finding in findings:
        check, status = _of(str, finding["check"]), _one_of(finding["status"], _RANK)
        if status == "fail" or _RANK[status] > _RANK.get(worst.get(check, ""), -1):
            worst[check] = status
    return {check: status for check, status in worst.items() if status != "warn"}


_RANK = {"warn": 0, "pass": 1, "skip": 2, "fail": 3}


def _table(content: dict[str, Any], place: str) -> dict[str, Row]:
    tables, columns = _of(dict, content["tables"]), content["columns"]
    rows: dict[str, Row] = {}
    for line in _once(tables["models"], "model"):
        name = _of(str, line["model"])
        bounds = _of(list, line["lower_bound"])
        _of(str, line["spec"]), _of(dict, line["model_args"]), _of(str, line["phase"])
        _of((list, type(None)), line["given_inputs"])
        rows[name] = Row(
            name=name,
            question=_question(line, map(str, _of(list, line["notes"]))),
            numbers={
                name: _number({"value": line[name], **columns["models"][name], "lower_bound": name in bounds})
                for name in compared(line)
                if not (line[name] is None and line["error"])
            },
            error=_of(str, line["error"]),
        )
    for line in _of(list, tables.get("rounds", [])):
        rows[line["model"]].rounds.append(_round(line))
    explained = _Explained(tables, list(rows), place, content.get("schema"))
    for name, row in rows.items():
        row.details = partial(explained.of, name)
    if not any(isinstance(table, Later) for table in tables.values()):
        explained.read()  # what is there must be right
    return rows


@dataclass
class _Explained:
    """The details of all models of a table, from when one is asked for."""

    tables: dict[str, Any]
    models: list[str]
    place: str
    schema: Any
    _all: dict[str, Details] | None = None

    def of(self, model: str) -> Details:
        return self.read()[model]

    def read(self) -> dict[str, Details]:
        """The details of every model. Raises InspectError where they do not keep to their schema."""
        if self._all is None:
            try:
                self._all = self._read()
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise broken(self.place, self.schema, error) from error
        return self._all

    def _read(self) -> dict[str, Details]:
        details = {name: Details() for name in self.models}
        for name, lines in _by_model(self.tables.get("layers", [])).items():
            details[name].layers = _layers(lines)
        for name, lines in _by_model(self.tables.get("ops", [])).items():
            details[name].ops = _calls(lines)
        for line in _of((list, Later), self.tables.get("stages", [])):
            details[line["model"]].stages.append(stage_line(line))
        return details


def stage_line(line: dict[str, Any]) -> str:
    """A stage as the digest of all stages sees it."""
    index = "rest" if line["index"] is None else f"stage {line['index']}"
    return f"{index}: {line['params']} parameters, {line['macs']} MACs, {line['modules']}"


def _by_model(lines: Any) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for line in _of((list, Later), lines):
        groups.setdefault(line["model"], []).append(line)
    return groups


def _once(lines: Any, key: str) -> list[dict[str, Any]]:
    """The lines. Raises ValueError where two have one name."""
    names = [line[key] for line in _of(list, lines)]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise ValueError(f"two rows are called {twice!r}")
    return list(lines)


def _calls(lines: Any) -> dict[str, int]:
    return {_of(str, line["op"]): _of(int, line["calls"]) for line in _once(lines, "op")}


def _round(line: dict[str, Any]) -> Round:
    cpu = line["cpu_seconds"]
    return Round(
        float(line["start"]), float(line["seconds"]), None if cpu is None else float(cpu), line["job"]
    )


def _layers(lines: Any) -> list[Layer]:
    """Column by column: a table of models has tens of thousands of layers."""
    lines = _once(lines, "path")
    columns = [[line[name] for line in lines] for name in Layer._fields]
    for name, values in zip(Layer._fields, columns):
        kind = str if name in ("path", "type", "shape") else int
        if not set(map(type, values)) <= {kind}:
            wrong = next(value for value in values if type(value) is not kind)
            raise TypeError(f"{wrong!r} is no {kind.__name__}")
    return list(map(Layer._make, zip(*columns)))


def _value(value: Any) -> Scalar:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, type(None))):
        raise TypeError(f"{value!r} is not a number")
    return value


def _of(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {getattr(kind, '__name__', 'such value')}")
    return value


def _one_of(value: Any, choices: Iterable[str]) -> str:
    if value not in choices:
        raise ValueError(f"{value!r} is none of {', '.join(choices)}")
    return str(value)
