"""A comparison where few messages are shown: one a model, with what changed, where, and what accepts it."""

from __future__ import annotations

from dataclasses import replace

from inspector.regress.compare import OVER, WHOLE, Change, Comparison, Where
from inspector.regress.outcome import delta, number, values
from inspector.regress.rules import STATES, Rules
from inspector.regress.source import GIT
from inspector.reporting.formats.table import aligned
from inspector.reporting.numbers import counted, si
from inspector.reporting.report import Finding, Report

ACCEPTED = "a wanted change is accepted by the same command with --update-baseline"
NAMED = 3
"""Metrics, and causes, of one model that a message names."""
MOST = 10
"""Metrics of one model that a failed test lists."""


def annotated(report: Report, found: Comparison, accepting: bool = True) -> Report:
    """`report` with one finding for all of a model's failures, and one for all of its remarks; `accepting`:
    the first failure also says how it is accepted."""
    where = {entry.model: entry for entry in found.where}
    alone = str(report.subject.get("name", ""))
    findings = []
    for status, chosen in (
        ("fail", [change for change in found.changes if change.fails]),
        ("warn", [change for change in found.changes if not change.fails and change.state in _REMARKS]),
    ):
        for model, changes in _by_model(chosen).items():
            parts = _states(changes) + (causes(where.get(model)) if status == "fail" else [])
            findings.append(Finding("", status, model or alone, "; ".join(parts)))
    if accepting and findings and findings[0].status == "fail" and not found.base.place.startswith(GIT):
        findings[0] = replace(findings[0], message=f"{findings[0].message} ({ACCEPTED})")
    findings += [finding for finding in report.findings if finding.check == "compared"]
    return replace(report, findings=findings)


_REMARKS = ("noisy", "new", "incomparable")


def _by_model(changes: list[Change]) -> dict[str, list[Change]]:
    models: dict[str, list[Change]] = {}
    for change in changes:
        models.setdefault(change.model, []).append(change)
    return models


def _states(changes: list[Change]) -> list[str]:
    """For each state `regressed: macs 2,000 to 3,000, +1,000 (+50%), and 4 more`."""
    texts = []
    for state in STATES:
        same = [change for change in changes if change.state == state]
        more = f", and {len(same) - NAMED} more" if len(same) > NAMED else ""
        if same:
            texts.append(f"{state}: {'; '.join(map(_named, same[:NAMED]))}{more}")
    return texts


def _named(change: Change) -> str:
    metric = [change.metric] if change.metric != WHOLE else []
    return " ".join(metric + [text for text in [values(replace(change, cause=""))] if text])


def causes(where: Where | None) -> list[str]:
    """What happened to which modules, the largest first: at most NAMED of them."""
    if where is None:
        return []
    texts = [f"{group.name}: {group.what}{_cost(group.macs, group.params)}" for group in where.groups]
    more = len(texts) - NAMED
    return [*texts[:NAMED], *([counted(more, "other change") + " of modules"] if more > 0 else [])]


def _cost(macs: int, params: int) -> str:
    parts = [
        f"{'+' if value > 0 else '-'}{si(abs(value))} {noun}"
        for value, noun in ((macs, "MACs"), (params, "parameters"))
        if value
    ]
    return f" ({', '.join(parts)})" if parts else ""


def failed_test(found: Comparison, rules: Rules, name: str, command: str) -> str:
    """Why a test of a model failed: each limit and the value, what changed, and how it is accepted.
    `command` writes what is there now into the baseline; budgets stand in the test's mark."""
    failing = [change for change in found.changes if change.fails]
    rows: list[list[str]] = []
    ways: dict[str, None] = {}
    for change in failing[:MOST]:
        over = (budget := rules.budget(change.metric)) is not None and f"{OVER} of" in change.why
        if over:
            change = replace(change, base=budget)  # the change is that from the limit
        limit = number(change.base, change.unit)
        why = "" if over else change.why
        rows.append(
            [change.metric, limit or "-", number(change.head, change.unit) or "-", delta(change), why]
        )
        ways[f"raise max_{change.metric} in the mark" if over else command] = None
    if len(failing) > MOST:
        rows.append([f"and {len(failing) - MOST} more", "", "", "", ""])
    kept = [place for place in range(5) if place < 3 or any(row[place] for row in rows)]
    headings = ["metric", "limit", "value", "change", "why"]
    table = aligned(
        [[row[place] for place in kept] for row in rows],
        [place in (1, 2, 3) for place in kept],
        [headings[place] for place in kept],
    )
    changed = [f"changed: {text}" for entry in found.where for text in causes(entry)]
    first, more = rows[0], len(failing) - 1
    title = f"{name}: {first[0]} is {first[2]}, its limit {first[1]}" + (f", and {more} more" if more else "")
    return "\n".join([title, "", table, "", *changed, *(f"accept: {way}" for way in ways)])
