"""Hold a report against a baseline: two files, or a file and the models as they are now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.regress.compare import Comparison, compare
from inspector.regress.content import Side
from inspector.regress.outcome import report
from inspector.regress.rules import Rules, rules
from inspector.regress.source import is_report, live, read, taken
from inspector.reporting.report import Report

LIVE = ("profile", "params", "stages", "table")
"""Commands whose report of a model can be made again from what the baseline says."""
Tell = Callable[[str, float], None]


def diff(
    base: str | Path | Report,
    head: str | Path | Report | None = None,
    *,
    tolerance: Sequence[str] = (),
    max: Sequence[str] = (),
    only: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: str | None = None,
    **how: Any,
) -> Report:
    """Compare `head` with `base`: files, `git:REV:PATH` or Reports; `head` may be a model's spec, and None
    counts the models of a table anew.

    tolerance, max: "macs=1%", "params=26M". only, ignore: globs of metrics. fail_on: states that fail.
    how: `inputs`, `model_args`, `seed`, `jobs` of models that are counted now.

    The verdict is "fail" where a change fails. Raises InspectError for what cannot be compared.
    """
    allowed = rules(tolerance=tolerance, budget=max, only=only, ignore=ignore, fail_on=fail_on)
    return report(compared(base, head, allowed, **how))


def compared(
    base: str | Path | Report,
    head: str | Path | Report | None,
    allowed: Rules,
    tell: Tell = lambda what, share: None,
    **how: Any,
) -> Comparison:
    """The comparison behind `diff`."""
    one = _side(base)
    if head is None or (isinstance(head, str) and not is_report(head)):
        one, two = _now(one, head, tell=tell, **how)
    else:
        two = _side(head)
    return compare(one, two, allowed)


def _side(of: str | Path | Report) -> Side:
    if isinstance(of, Report):
        return taken(of.to_dict(), str(of.subject.get("name", of.command)))
    return read(str(of))


def _now(
    base: Side,
    spec: str | None,
    inputs: Sequence[str] | None = None,
    model_args: dict[str, Any] | None = None,
    seed: int = 0,
    jobs: int = 1,
    tell: Tell = lambda what, share: None,
) -> tuple[Side, Side]:
    """BASE, and the same question asked of the model now; of a table only the rows that are asked of."""
    if base.command not in LIVE:
        raise InspectError(
            f"{base.place} is a {base.command} report: {spec or 'a model'} cannot be held against it now",
            f"make a report of it first: inspect {base.command} {spec or 'MODEL'} -o head.json",
        )
    if base.command == "table":
        if inputs or model_args:
            raise InspectError(
                "a row of a table has its own inputs and arguments", "leave out --input and --model-arg"
            )
        return _rows_now(base, spec, seed, jobs, tell)
    if spec is None:
        raise InspectError(
            f"{base.place} does not say how to build its model again", "name HEAD: a report or a model's spec"
        )
    asked = list(inputs) if inputs else _asked(base)
    return base, _counted_now(base, spec, asked, model_args, seed)


def _asked(base: Side) -> list[str] | None:
    """The inputs of BASE, where they can be written as text; else the model's own, which then must agree."""
    from inspector.models.inputs import parse_inputs

    texts = [str(text) for text in base.subject.get("inputs") or ()]
    try:
        parse_inputs(texts)
    except InspectError:
        return None
    return texts or None


def _counted_now(
    base: Side, spec: str, inputs: list[str] | None, model_args: dict[str, Any] | None, seed: int
) -> Side:
    if base.command == "params":
        from inspector.profiling.params import params

        made = params(spec, model_args=model_args)
    elif base.command == "stages":
        from inspector.backbones.report import stages

        made = stages(spec, inputs, model_args=model_args, seed=seed)
    else:
        from inspector.profiling.profile import profile

        phase = str(base.subject.get("phase") or "forward")
        made = profile(spec, inputs, phase=phase, model_args=model_args, seed=seed)
    return live(made.to_dict(), spec)


def _rows_now(base: Side, spec: str | None, seed: int, jobs: int, tell: Tell) -> tuple[Side, Side]:
    from inspector.regress.sweep.row import Entry
    from inspector.regress.sweep.table import table

    lines = base.content["tables"]["models"]
    chosen = [line for line in lines if spec is None or spec in (line["spec"], line["model"])]
    if not chosen:
        from inspector.core.naming import nearest

        raise InspectError(
            f"{base.place} has no row {spec!r}",
            nearest(spec or "", [str(line["model"]) for line in lines], "see its rows, or add it with table"),
        )
    found = [
        Entry(
            line["model"],
            line["spec"],
            None if line["given_inputs"] is None else tuple(line["given_inputs"]),
            line["model_args"],
            line["phase"],
        )
        for line in chosen
    ]
    made = table(found, seed=seed, jobs=jobs, tell=tell)
    names = {entry.name for entry in found}
    kept = {name: row for name, row in base.rows.items() if name in names}
    return replace(base, rows=kept), live(made.to_dict(), spec or f"{len(found)} models")
