"""Two reports become one list of changes, each in one of eight states, worst first."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from inspector.core.errors import InspectError
from inspector.regress.causes import Group, grouped
from inspector.regress.content import Number, Row, Scalar, Side
from inspector.regress.details import why_changed
from inspector.regress.layers import Moved, moved
from inspector.regress.noise import OF_ROUNDS, why_not
from inspector.regress.noise import judge as judge_rounds
from inspector.regress.rules import STATES, Rules
from inspector.reporting.numbers import counted
from inspector.reporting.registry import MODEL, TORCH, quantity

_DIFFERS = {"state_digest": "names or shapes changed: older checkpoints may not load"}
WHOLE = "model"
"""The name of the change of a whole row: it is new, missing, or could not be counted."""
OVER = "over the budget"
_VERSIONS = ("torch", "torchvision")
_NO_MACHINE = {"inspector", "seed", "python", "torch", "torchvision", "timm", "transformers"}
"""Parts of an environment that may differ on one machine, for a comparison within one job."""


@dataclass(frozen=True)
class Change:
    """What became of one metric of one model. `only_reported`: it never fails, whatever its state. `cause`:
    the modules that explain most of it."""

    model: str
    metric: str
    state: str
    base: Scalar = None
    head: Scalar = None
    unit: str = ""
    why: str = ""
    only_reported: bool = False
    fails: bool = False
    cause: str = ""

    @property
    def reason(self) -> str:
        """Why, and the modules that caused it."""
        return _joined(self.why, self.cause)

    @property
    def delta(self) -> int | float | None:
        """HEAD less BASE, where both are numbers."""
        if isinstance(self.base, (int, float)) and isinstance(self.head, (int, float)):
            return self.head - self.base
        return None

    @property
    def relative(self) -> float | None:
        """The change as a part of BASE; infinite from 0."""
        delta = self.delta
        if not delta:
            return delta
        assert isinstance(self.base, (int, float))
        return delta / abs(self.base) if self.base else math.copysign(math.inf, delta)


@dataclass(frozen=True)
class Where:
    """The modules that explain what changed in one model, the same grouped by cause, and what they leave
    unexplained."""

    model: str
    modules: tuple[Moved, ...]
    groups: tuple[Group, ...] = ()
    macs_left: int = 0
    params_left: int = 0


@dataclass
class Comparison:
    """Everything that a comparison of two reports says."""

    base: Side
    head: Side
    changes: list[Change]
    where: list[Where] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many changes are in each state."""
        states = [change.state for change in self.changes]
        return {state: states.count(state) for state in STATES}

    @property
    def verdict(self) -> str:
        """fail if a change fails, or if no model could be counted on either side; pass if something was
        compared and nothing fails; else none."""
        if any(change.fails for change in self.changes):
            return "fail"
        if any(c.state in ("ok", "improved", "regressed") for c in self.changes):
            return "pass"
        uncounted = any(c.metric == WHOLE and c.state == "incomparable" for c in self.changes)
        return "fail" if uncounted else "none"


def compare(base: Side, head: Side, rules: Rules | None = None) -> Comparison:
    """Compare HEAD with BASE. Raises InspectError for reports of different commands."""
    rules = rules or Rules()
    if base.command != head.command:
        raise InspectError(
            f"{base.place} is a {base.command} report, {head.place} a {head.command} report",
            "compare two reports of one command",
        )
    rules.check_names(_names(base, head))
    context = _Context(base, head, rules)
    changes: list[Change] = []
    where: list[Where] = []
    for name in dict.fromkeys((*base.rows, *head.rows)):
        row = list(context.row(name))
        changes += row
        if any(change.state != "ok" for change in row):
            where += _where(name, base.rows.get(name), head.rows.get(name))
    explained = {entry.model: entry for entry in where}

    changes = [
        replace(
            change,
            fails=change.state in rules.fail_on and not change.only_reported,
            cause=_module(change, explained.get(change.model)),
        )
        for change in changes
    ]
    order = {name: place for place, name in enumerate(dict.fromkeys((*base.rows, *head.rows)))}
    changes.sort(key=lambda change: _severity(change, order))
    rank = {change.model: place for place, change in reversed(list(enumerate(changes)))}
    where.sort(key=lambda entry: rank[entry.model])
    return Comparison(base, head, changes, where)


def _joined(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _severity(change: Change, order: dict[str, int]) -> tuple[Any, ...]:
    """Worst first; equal ones in the order of the reports (sorting is stable)."""
    size = abs(change.relative) if change.relative is not None else 0.0
    return not change.fails, STATES.index(change.state), -size, order[change.model]


def _names(*sides: Side) -> Iterator[str]:
    for side in sides:
        for row in side.rows.values():
            yield from row.numbers
            yield from (f"check:{check}" for check in row.checks)


@dataclass(frozen=True)
class _Context:
    base: Side
    head: Side
    rules: Rules

    def row(self, name: str) -> Iterator[Change]:
        base, head = self.base.rows.get(name), self.head.rows.get(name)
        whole = _whole(name, base, head)
        if whole is not None:
            yield whole
            if head is not None and not head.error:
                yield from self._budgets_alone(name, head)
            return
        assert base is not None
        assert head is not None
        asked = _differences(base.question, head.question)
        for metric in dict.fromkeys((*base.numbers, *head.numbers)):
            one, two = base.numbers.get(metric), head.numbers.get(metric)
            if self.rules.compares(metric):
                if one is not None and two is not None and one.value is None and two.value is None:
                    if self.base.command == "table":  # a column that other rows have
                        continue
                change = self._number(name, metric, one, two, asked)
                change = change or self._measured(name, metric, base, head)
                yield self._within_budget(self._explained(change, base, head), two)
            elif two is not None and self.rules.budget(metric) is not None:
                values = one.value if one is not None else None, two.value
                change = Change(name, metric, "ok", *values, two.unit, "for its budget only")
                yield self._within_budget(change, two)
        for check in dict.fromkeys((*base.checks, *head.checks)):
            if self.rules.compares(f"check:{check}"):
                yield _check(name, check, base.checks.get(check), head.checks.get(check))

    def _number(
        self, name: str, metric: str, base: Number | None, head: Number | None, asked: str
    ) -> Change | None:
        """The change of one metric; None for a noisy one, of which the rounds decide."""
        either = head or base
        assert either is not None
        change = Change(
            name, metric, "ok", base.value if base else None, head.value if head else None, either.unit
        )
        if base is None:
            return replace(change, state="new", why="not in BASE")
        if head is None:
            return replace(change, state="missing", why="not in HEAD")
        if base.value is None and head.value is None:
            return replace(change, state="incomparable", why="unknown on both sides", only_reported=True)
        if not _sound(head.value):
            return replace(change, state="invalid", why="HEAD has no number")
        if not _sound(base.value):
            return replace(change, state="new", why="unknown in BASE")
        if (base.unit, base.kind, base.direction) != (head.unit, head.kind, head.direction) or isinstance(
            base.value, str
        ) != isinstance(head.value, str):
            return replace(change, state="incomparable", why="a different unit or class in HEAD")
        if asked and quantity(metric).depends_on != MODEL:
            return replace(change, state="incomparable", why=asked)
        if head.kind == "noisy":
            return None
        return self._judged(change, base, head)

    def _judged(self, change: Change, base: Number, head: Number) -> Change:
        """The change of two valid numbers that answer the same question."""
        if base.lower_bound != head.lower_bound:
            return _bounded(change, head)
        if base.value == head.value:
            return change
        if environment := self._elsewhere(change.metric, head.kind):
            return replace(change, state="incomparable", why=environment, only_reported=True)
        tolerance = self.rules.tolerance(change.metric, head.kind)
        if isinstance(base.value, str) or isinstance(head.value, str):
            return replace(change, state="regressed", why=_DIFFERS.get(change.metric, "differs"))
        assert base.value is not None
        assert head.value is not None
        if tolerance is not None and tolerance.allows(base.value, head.value):
            return replace(change, why=f"within {tolerance}")
        beyond = f"beyond {tolerance}" if tolerance is not None else ""
        if head.direction == "none":
            return replace(change, state="regressed", why=beyond or "differs")
        better = (head.value < base.value) == (head.direction == "lower")
        return replace(change, state="improved" if better else "regressed", why=beyond)

    def _elsewhere(self, metric: str, kind: str) -> str:
        """What of the environment differs and matters to the metric; empty for nothing."""
        one, two = self.base.environment, self.head.environment
        if kind == "exact":
            keys: tuple[str, ...] = _VERSIONS if quantity(metric).depends_on == TORCH else ()
        else:
            keys = tuple(key for key in dict.fromkeys((*one, *two)) if key != "inspector")
        return _differences({k: _release(one.get(k)) for k in keys}, {k: _release(two.get(k)) for k in keys})

    def _measured(self, name: str, metric: str, base: Row, head: Row) -> Change:
        """A time: only where the rounds of both sides may be compared is there more than a report."""
        one, two = base.numbers[metric], head.numbers[metric]
        change = Change(name, metric, "noisy", one.value, two.value, two.unit, only_reported=True)
        left, right = self.base.environment, self.head.environment
        machine = [key for key in dict.fromkeys((*left, *right)) if key not in _NO_MACHINE]
        if differs := _differences(
            {k: str(left.get(k)) for k in machine}, {k: str(right.get(k)) for k in machine}
        ):
            return replace(change, state="incomparable", why=differs)
        objection = why_not(base.rounds, head.rounds)
        if metric not in OF_ROUNDS or objection:
            return replace(change, why=f"only reported: {objection or 'not measured in turn'}")
        verdict = judge_rounds(metric, base.rounds, head.rounds, self.rules.effect)
        return replace(change, state=verdict.state, why=verdict.why, only_reported=verdict.state == "noisy")

    def _explained(self, change: Change, base: Row, head: Row) -> Change:
        if change.state in ("ok", "missing", "invalid") or change.base is None:
            return change
        return replace(change, why=_joined(change.why, why_changed(change.metric, base, head)))

    def _within_budget(self, change: Change, head: Number | None) -> Change:
        budget = self.rules.budget(change.metric)
        if budget is None or head is None:
            return change
        if isinstance(head.value, str):
            raise InspectError(
                f"`max=` {change.metric}: a digest has no budget", "name a number, e.g. params"
            )
        if not _sound(head.value):
            return replace(change, state="invalid", why="unknown, so no budget can hold", only_reported=False)
        assert head.value is not None
        limit = f"{budget:,}" if isinstance(budget, int) else f"{budget:g}"
        if (head.value < budget) if head.direction == "higher" else (head.value > budget):
            return replace(change, state="regressed", why=f"{OVER} of {limit}", only_reported=False)
        if head.lower_bound:
            why = f"a lower bound: it cannot show that the budget of {limit} holds"
            return replace(change, state="invalid", why=why, only_reported=False)
        return change

    def _budgets_alone(self, name: str, head: Row) -> Iterator[Change]:
        """The budgets of a row that only HEAD has."""
        for metric, number in head.numbers.items():
            if self.rules.budget(metric) is not None:
                change = Change(name, metric, "new", None, number.value, number.unit, "not in BASE")
                yield self._within_budget(change, number)


def _release(value: Any) -> str:
    """A version without the build that it is of: 2.15.0 of 2.15.0+cpu."""
    return str(value).partition("+")[0]


def _sound(value: Scalar) -> bool:
    return value is not None and (isinstance(value, str) or math.isfinite(value))


def _whole(name: str, base: Row | None, head: Row | None) -> Change | None:
    """The change of a row that one side lacks or could not count; None where both have its numbers."""
    if base is not None and head is not None and not base.error and not head.error:
        return None
    change = Change(name, WHOLE, "ok")
    if head is None:
        return replace(change, state="missing", why="not in HEAD")
    if base is not None and base.error and head.error:
        why = f"cannot be counted on either side: {head.error}"
        return replace(change, state="incomparable", why=why, only_reported=True)
    if head.error:
        return replace(change, state="invalid", why=f"HEAD: {head.error}")
    return replace(change, state="new", why=f"BASE: {base.error}" if base is not None else "not in BASE")


def _check(name: str, check: str, base: str | None, head: str | None) -> Change:
    """A check that passed must still pass."""
    change = Change(name, f"check:{check}", "ok", base, head)
    if head == "fail" and base != "fail":
        return replace(change, state="regressed", why="it passed" if base == "pass" else "it fails in HEAD")
    if head is None or (head == "skip" and base != "skip"):
        return replace(change, state="missing", why="skipped in HEAD" if head else "not in HEAD")
    if base is None:
        return replace(change, state="new", why="not in BASE")
    if head == "pass" and base != "pass":
        return replace(change, state="improved")
    return change


def _bounded(change: Change, head: Number) -> Change:
    """One side is a lower bound, the other exact: only one order of the two is certain."""
    assert isinstance(change.delta, (int, float))
    if head.lower_bound and change.delta > 0 and head.direction == "lower":
        return replace(change, state="regressed", why="at least that much in HEAD")
    if not head.lower_bound and change.delta < 0 and head.direction == "lower":
        return replace(change, state="improved", why="at least that much in BASE")
    which = "HEAD" if head.lower_bound else "BASE"
    return replace(change, state="incomparable", why=f"a lower bound in {which}: operators without a formula")


def _differences(one: dict[str, str], two: dict[str, str]) -> str:
    """`inputs: float32[1,3,224,224] and float32[1,3,256,256]`, for what differs; empty for nothing."""
    return "; ".join(
        f"{key}: {one.get(key) or 'none'} and {two.get(key) or 'none'}"
        for key in dict.fromkeys((*one, *two))
        if one.get(key, "") != two.get(key, "")
    )


def _where(name: str, base: Row | None, head: Row | None) -> Iterator[Where]:
    """What explains a change of MACs or parameters, by modules."""
    if base is None or head is None or base.layers is None or head.layers is None:
        return
    if base.question != head.question:
        return
    every = moved(base.layers, head.layers)
    costly = [change for change in every if change.macs or change.params]
    costly.sort(key=lambda change: (-abs(change.macs), -abs(change.params)))
    left = [
        _total(head, metric) - _total(base, metric) - sum(getattr(change, metric) for change in costly)
        for metric in ("macs", "params")
    ]
    if costly or any(left):
        yield Where(name, tuple(costly), tuple(grouped(every)), *left)


def _module(change: Change, where: Where | None) -> str:
    """The cause of most of a change of MACs or parameters, named."""
    if where is None or change.metric not in ("macs", "params") or not change.delta:
        return ""
    groups = [group for group in where.groups if getattr(group, change.metric)]
    if not groups:
        return ""
    largest = max(groups, key=lambda group: abs(getattr(group, change.metric)))
    more = f" (and {counted(len(groups) - 1, 'other change')})" if len(groups) > 1 else ""
    return f"{largest.name}: {largest.what}{more}"


def _total(row: Row, metric: str) -> int:
    number = row.numbers.get(metric)
    return number.value if number is not None and isinstance(number.value, int) else 0
