"""Why a counter and our trace differ: joined by module, each difference with its cause."""

from __future__ import annotations

from collections import Counter as Counts
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inspector.counters.operators import Contractions
from inspector.counters.record import BACKWARD, UNEXPLAINED, Count, Counter, Part
from inspector.tracing.record import Trace

NOWHERE = "(in no module)"
"""Where a counter's total is more or less than its own parts."""


@dataclass(frozen=True)
class Explanation:
    """The parts of one difference, in MACs, and what is left of it in each module.

    `difference` is what the counter prints minus our MACs: the parts and the remainder add up to it.
    """

    difference: int
    parts: tuple[Part, ...]
    remainder: Mapping[str, int]

    @property
    def unexplained(self) -> int:
        """What no cause explains: modules with too much and modules with too little do not cancel."""
        return sum(abs(amount) for amount in self.remainder.values())


def explain(counter: Counter, count: Count, found: Trace, circumstances: Trace) -> Explanation:
    """Take the difference between `count` and the trace `found` apart.

    `circumstances` is our trace of what the counter ran on (eval mode where it does not
    train, real data where `found` assumes the most): its rules are applied to that, and the way from
    there to `found` is part of the explanation.
    """
    assert counter.explain is not None
    alone = circumstances is found
    found = found.by_first_path()  # the others know a shared module by one name
    circumstances = found if alone else circumstances.by_first_path()
    parts = [*counter.explain(circumstances, count), *_circumstances(found, circumstances)]
    expected = _by_place(found, counter)
    for part in parts:
        expected[_place(part.module, part.phase, counter)] += part.amount
    observed: dict[str, int] = defaultdict(int)
    for cell in count.cells:
        observed[cell.module] += cell.value
    places = dict.fromkeys([*observed, *expected])
    remainder = {m: round(observed[m] / counter.per_mac) - expected[m] for m in places}
    remainder[NOWHERE] = (count.value - sum(observed.values())) // counter.per_mac
    ours = sum(op.macs or 0 for op in found.ops)
    return Explanation(
        count.value - ours,
        (*parts, *factor(counter, count)),
        {module: amount for module, amount in remainder.items() if amount},
    )


def total_only(counter: Counter | None, count: Count, found: Trace, parts: list[Part]) -> Explanation:
    """The same for a counter that gives only a total."""
    difference = count.value - sum(op.macs or 0 for op in found.ops)
    parts = [*parts, *(factor(counter, count) if counter else ())]
    left = difference - sum(part.amount for part in parts)
    return Explanation(difference, tuple(parts), {"": left} if left else {})


def factor(counter: Counter, count: Count) -> Iterator[Part]:
    """The difference between what is printed and the MACs that it means."""
    if counter.per_mac != 1 and count.value:
        yield Part("", "total", "convention factor 2", count.value - count.value // counter.per_mac)


def _by_place(found: Trace, counter: Counter) -> dict[str, int]:
    macs: dict[str, int] = defaultdict(int)
    for op in found.ops:
        macs[_place(op.module, op.phase, counter)] += op.macs or 0
    return macs


def _place(module: str, phase: str, counter: Counter) -> str:
    """Where a module's work is compared: a counter that trains cannot tell whose backward it is."""
    return BACKWARD if phase == "backward" and counter.trains else module


def _circumstances(found: Trace, other: Trace) -> Iterator[Part]:
    """What `found` has and `other` has not: the backward, what eval mode does not run, boxes that the data
    did not have."""
    if other is found:
        return
    ours, theirs = _by_kind(found), _by_kind(other)
    ran = {module.path for module in other.modules if module.calls}
    for (module, kind, phase), macs in ours.items():
        if phase == "backward" and other.phase == "forward":
            yield Part(module, kind, "backward not counted", -macs, phase)
            continue
        less = theirs.get((module, kind, phase), 0) - macs
        if less and other.phase == found.phase:
            yield Part(module, kind, "work that depends on the data", less, phase)
        elif less:
            idle = "training does more here" if module in ran else "unused submodule"
            yield Part(module, kind, idle, less, phase)


def _by_kind(trace: Trace) -> dict[tuple[str, str, str], int]:
    sums: dict[tuple[str, str, str], int] = defaultdict(int)
    for work in Contractions(trace).all:
        sums[work.module, work.kind, work.op.phase] += work.macs
    return sums


def causes(explanation: Explanation) -> Iterator[dict[str, object]]:
    """A row for each cause and class of operator, largest first, then what is unexplained."""
    groups: dict[tuple[str, str], Counts[str]] = defaultdict(Counts)
    for part in explanation.parts:
        groups[part.cause, part.operator][part.module] += part.amount
    rows = [
        {
            "cause": cause,
            "operator": operator,
            "amount": sum(modules.values()),
            "modules": len(modules),
            "largest_module": max(modules, key=lambda m: abs(modules[m])),
        }
        for (cause, operator), modules in groups.items()
    ]
    yield from sorted(rows, key=lambda row: -abs(row["amount"]))  # type: ignore[arg-type]
    left = explanation.remainder
    if left:
        yield {
            "cause": UNEXPLAINED,
            "operator": "",
            "amount": explanation.difference - sum(part.amount for part in explanation.parts),
            "modules": len(left),
            "largest_module": max(left, key=lambda m: abs(left[m])),
        }
