"""Times compared: only those measured in turn in one job, and only where three things say so.

The bootstrap interval of the ratio excludes 1, the ratio is beyond the least effect, and the rounds are
apart: in nearly every pair HEAD is on the same side of BASE. How often that is wrong, how often it
misses: benchmarks/diff_power.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb

from inspector.regress.content import Round

OF_ROUNDS = ("latency", "cpu_time")
"""Metrics of which every round has a value."""
CHANCE = 1 / 4000
"""A coin for each pair of rounds must go all one way as often as HEAD did with at most this chance: rounds
that differ by nothing but noise fail no more often than that, whatever the noise is like."""
RESAMPLES = 2000
LEAST = 12
"""With fewer pairs of rounds even a coin that always falls on one side is not rare enough."""


@dataclass(frozen=True)
class Verdict:
    """What rounds say of HEAD's time over BASE's: regressed, improved, ok, or noisy for cannot tell."""

    state: str
    why: str


def why_not(base: Sequence[Round], head: Sequence[Round]) -> str:
    """Why the rounds of two sides cannot be compared; empty where they can."""
    if not base or not head:
        return "no rounds on both sides"
    if len({r.job for r in (*base, *head)}) > 1:
        return "measured in two jobs"
    if min(len(base), len(head)) < LEAST:
        return f"only {min(len(base), len(head))} rounds, and {LEAST} are needed"
    if not _in_turn(base, head):
        return "measured one after the other, not in turn"
    return ""


def _in_turn(base: Sequence[Round], head: Sequence[Round]) -> bool:
    """Whether each pair of rounds was over before the next began."""
    starts = [(one.start, two.start) for one, two in zip(sorted(base), sorted(head))]
    return len(base) == len(head) and all(max(one) < min(two) for one, two in pairwise(starts))


def judge(metric: str, base: Sequence[Round], head: Sequence[Round], effect: float) -> Verdict:
    """Compare rounds for which `why_not` has no objection. Lower is better."""
    one, two = ([getattr(r, metric) for r in sorted(side)] for side in (base, head))
    return decide(one, two, effect)


def decide(base: Sequence[float], head: Sequence[float], effect: float) -> Verdict:
    """The same, of seconds paired by round."""
    ratio, low, high = _ratio(base, head)
    message = f"{ratio:.3f}x, 95% interval {low:.3f} to {high:.3f} of {len(base)} pairs"
    slower = sum(b < h for b, h in zip(base, head))
    faster = sum(b > h for b, h in zip(base, head))
    if low > 1 and ratio >= 1 + effect and chance(slower, len(base)) <= CHANCE:
        return Verdict("regressed", message)
    if high < 1 and ratio <= 1 / (1 + effect) and chance(faster, len(base)) <= CHANCE:
        return Verdict("improved", message)
    if 1 / (1 + effect) <= low and high <= 1 + effect:
        return Verdict("ok", message)
    return Verdict("noisy", f"cannot tell: {message}")


def _ratio(base: Sequence[float], head: Sequence[float]) -> tuple[float, float, float]:
    """The median of HEAD over BASE by pairs, and its 95% bootstrap interval: a round that was disturbed
    does not move it. `bench.stats` has another, of means, for rounds of one quiet process."""
    import numpy as np

    logs = np.log(np.asarray(head, dtype=np.float64)) - np.log(np.asarray(base, dtype=np.float64))
    drawn = np.random.default_rng(0).integers(len(logs), size=(RESAMPLES, len(logs)))
    low, high = np.quantile(np.median(logs[drawn], axis=1), [0.025, 0.975])
    return float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high))


def chance(heads: int, pairs: int) -> float:
    """The probability that a fair coin shows at least `heads` heads in `pairs` throws."""
    return sum(comb(pairs, count) for count in range(heads, pairs + 1)) / 2**pairs
