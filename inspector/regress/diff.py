"""Compare a report with a baseline: two files, or a file and the models as they are now."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.files import write_whole
from inspector.core.trust import TRUST, refuse_in_file
from inspector.regress.annotations import ACCEPTED, annotated
from inspector.regress.baseline import update
from inspector.regress.compare import Comparison, compare
from inspector.regress.content import Side, side
from inspector.regress.outcome import report
from inspector.regress.rules import Rules, rules
from inspector.regress.source import GIT, is_report, live, read
from inspector.regress.written import add_to_summary, write
from inspector.reporting.numbers import counted
from inspector.reporting.report import Report
from inspector.reporting.schema import as_text

LIVE = ("profile", "params", "stages", "table")
"""Commands whose report of a model can be made again from what the baseline says."""
Tell = Callable[[str, float], None]


@dataclass
class DiffReport(Report):
    """What `diff` returns: each format shows as many changes as its reader can handle."""

    comparison: Comparison = field(kw_only=True)
    done: str = ""
    every: bool = False

    def written(self, form: str, color: bool = False, width: int | None = None) -> str:
        return write(self.comparison, form, color, width, self.every)

    def failures(self) -> list[str]:
        return Report.failures(annotated(self, self.comparison, accepting=False))

    def notes(self) -> Iterator[str]:
        """What was done besides the comparison, or can be. A GitHub job's step summary gets it, too."""
        if self.done:
            yield self.done
        elif self.verdict == "fail" and not str(self.subject["base"]).startswith("git:"):
            yield ACCEPTED
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            try:
                if not add_to_summary(self.comparison, summary):
                    yield "the step summary is full: nothing was added to it"
            except InspectError as error:  # the comparison itself is done, and its verdict matters
                yield f"{error.message}: {error.hint}"


def diff(
    base: str | Path | Report,
    head: str | Path | Report | None = None,
    *,
    tolerance: Sequence[str] = (),
    max: Sequence[str] = (),
    only: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: Sequence[str] | None = None,
    effect: str | None = None,
    update_baseline: bool = False,
    all: bool = False,
    inputs: Sequence[str] | None = None,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    jobs: int = 1,
    tell: Tell = lambda what, share: None,
) -> DiffReport:
    """Compare `head` with `base`: files, `git:REV:PATH` or Reports; `head` may be a model's spec, and None
    counts the models of a table again.

    tolerance, max: "macs=1%", "params=26M". only, ignore: globs of metrics. fail_on: states that fail.
    effect: the least slowdown that fails, "5%".
    update_baseline: write what changed into the file `base`, or all of `head` where there is none yet; the
        verdict is then that against the new baseline.
    all: text and pages also list what is ok, and each module that changed. JSON and CSV always do.
    inputs, model_args, seed, jobs: of models that are counted now; `tell` is called with the progress.

    The verdict is "fail" where a change fails. Raises InspectError for what cannot be compared.
    """
    allowed = rules(tolerance=tolerance, budget=max, only=only, ignore=ignore, fail_on=fail_on, effect=effect)
    if update_baseline and _begins(base, head):
        whole = _side(head)  # type: ignore[arg-type]
        write_whole(str(base), as_text(whole.content) + "\n")
        return _report(compare(whole, whole, allowed), "none", f"wrote {base}: a new baseline", all)
    one = _side(base)
    if head is None or (isinstance(head, str) and not is_report(head)):
        one, two = _now(one, head, inputs, model_args, seed, jobs, tell)
    else:
        two = _side(head)
    comparison = compare(one, two, allowed)
    if not update_baseline:
        return _report(comparison, comparison.verdict, every=all)
    done, rows = _updated(str(base), comparison)
    return _report(comparison, _remaining(str(base), comparison, rows, allowed), done, all)


def _report(comparison: Comparison, verdict: str, done: str = "", every: bool = False) -> DiffReport:
    made = replace(report(comparison, every=every), verdict=verdict)
    return DiffReport(**vars(made), comparison=comparison, done=done, every=every)


def _begins(base: str | Path | Report, head: str | Path | Report | None) -> bool:
    """Whether the baseline is a file that is not there yet, and HEAD a report that can become it."""
    if isinstance(base, Report) or str(base).startswith(GIT) or Path(base).exists():
        return False
    return isinstance(head, Report) or (head is not None and is_report(str(head)))


def _updated(base: str, comparison: Comparison) -> tuple[str, list[str]]:
    """Write what changed into the baseline: a sentence about it, and the names of the rows."""
    file, rows = update(base, comparison)
    named = ", ".join(row or comparison.head.command for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"updated {file}: {named}{more}" if rows else f"nothing to update in {file}", rows


def _remaining(base: str, comparison: Comparison, rows: Sequence[str], allowed: Rules) -> str:
    """The verdict of HEAD against the baseline as it is now."""
    now = read(base)
    now.rows = {name: row for name, row in now.rows.items() if name in comparison.base.rows or name in rows}
    return compare(now, comparison.head, allowed).verdict


def _side(of: str | Path | Report) -> Side:
    if isinstance(of, Report):
        return side(of.to_dict(), str(of.subject.get("name", of.command)))
    return read(str(of))


def _now(
    base: Side,
    spec: str | None,
    inputs: Sequence[str] | None,
    model_args: Mapping[str, Any] | None,
    seed: int,
    jobs: int,
    tell: Tell,
) -> tuple[Side, Side]:
    """BASE, and the same question asked of the model now; of a table only the rows that are asked of."""
    if base.command not in LIVE:
        raise InspectError(
            f"{base.place} is a {base.command} report: {spec or 'a model'} cannot be compared with it",
            f"make a report of it first: inspect {base.command} {spec or 'MODEL'} -o head.json",
        )
    if base.command == "table":
        if inputs or set(model_args or {}) - {TRUST}:
            raise InspectError(
                "a row of a table has inputs and arguments of its own",
                "leave out `inputs=` and `model_args=`",
            )
        return _rows_now(base, spec, bool((model_args or {}).get(TRUST)), seed, jobs, tell)
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
    base: Side, spec: str, inputs: list[str] | None, model_args: Mapping[str, Any] | None, seed: int
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
        call = base.subject.get("call")
        step = base.subject.get("serving") or {}
        inputs = None if step else inputs  # a step makes its own
        made = profile(spec, inputs, phase=phase, model_args=model_args, seed=seed, call=call, **step)
    return live(made.to_dict(), spec)


def _arguments(row: Mapping[str, Any], trusted: bool, place: str) -> Mapping[str, Any]:
    """The arguments of a baseline's row, which alone does not let code run."""
    if not trusted:
        refuse_in_file(row, place)
    return row


def _rows_now(
    base: Side, spec: str | None, trusted: bool, seed: int, jobs: int, tell: Tell
) -> tuple[Side, Side]:
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
    entries = [
        Entry(
            line["model"],
            line["spec"],
            None if line["given_inputs"] is None else tuple(line["given_inputs"]),
            _arguments(line["model_args"], trusted, base.place),
            line["phase"],
            line.get("call") or "forward",
            line.get("serving") or {},
        )
        for line in chosen
    ]
    made = table(entries, seed=seed, jobs=jobs, tell=tell)
    names = {entry.name for entry in entries}
    kept = {name: row for name, row in base.rows.items() if name in names}
    return replace(base, rows=kept), live(made.to_dict(), spec or counted(len(entries), "model"))
