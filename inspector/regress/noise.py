"""Times compared: only those measured in turn in one job, and only where three things say so.

The interval of the ratio excludes 1, the ratio is beyond the least effect, and the rounds are apart: in
nearly every pair HEAD is on the same side of BASE. False failures and power: benchmarks/diff_power.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from inspector.regress.content import Round

SEPARATION = 0.8
"""Of the pairs of rounds, so many must go the same way."""
LEAST = 6
"""Fewer pairs of rounds have no interval (bench.stats)."""


@dataclass(frozen=True)
class Verdict:
    """What rounds say of HEAD's time over BASE's: regressed, improved, ok, or noisy for cannot tell."""

    state: str
    why: str
    ratio: float | None = None


def why_not(base: Sequence[Round], head: Sequence[Round]) -> str:
    """Why the rounds of two sides cannot be compared; empty where they can."""
    if not base or not head:
        return "no rounds on both sides"
    if len({r.job for r in (*base, *head)}) > 1:
        return "measured in two jobs"
    if min(len(base), len(head)) < LEAST:
        return f"{min(len(base), len(head))} rounds, and it takes {LEAST}"
    if not _in_turn(base, head):
        return "measured one after the other, not in turn"
    return ""


def _in_turn(base: Sequence[Round], head: Sequence[Round]) -> bool:
    """Whether each pair of rounds was over before the next began."""
    pairs = list(zip(sorted(base), sorted(head)))
    if len(base) != len(head):
        return False
    return all(
        max(one[0].start, one[1].start) < min(two[0].start, two[1].start) for one, two in pairwise(pairs)
    )


def judge(base: Sequence[Round], head: Sequence[Round], effect: float) -> Verdict:
    """Compare rounds for which `why_not` has no objection. Lower is better."""
    return decide([r.seconds for r in sorted(base)], [r.seconds for r in sorted(head)], effect)


def decide(base: Sequence[float], head: Sequence[float], effect: float) -> Verdict:
    """The same, of seconds paired by round."""
    from inspector.bench.stats import claimed, ratio_interval

    ratio, interval = ratio_interval(head, base, seed=0)
    assert interval is not None
    said = f"{ratio:.3f}x, 95% interval {interval.low:.3f} to {interval.high:.3f} of {len(base)} pairs"
    slower = sum(b < h for b, h in zip(base, head)) / len(base)
    faster = sum(b > h for b, h in zip(base, head)) / len(base)
    if claimed(interval) and ratio >= 1 + effect and slower >= SEPARATION:
        return Verdict("regressed", said, ratio)
    if claimed(interval) and ratio <= 1 / (1 + effect) and faster >= SEPARATION:
        return Verdict("improved", said, ratio)
    if 1 / (1 + effect) <= interval.low and interval.high <= 1 + effect:
        return Verdict("ok", said, ratio)
    return Verdict("noisy", f"cannot tell: {said}", ratio)
