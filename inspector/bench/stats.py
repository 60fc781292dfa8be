"""Medians, and what the rounds of a measurement say about how sure they are.

Samples of one round share its clock speed, temperature and neighbours, so the round is the unit that is
resampled, never the single sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

LEVEL = 0.95
LEAST_ROUNDS = 6
"""Fewer rounds get no interval."""
RESAMPLES = 2000
_TINY = 1e-12
"""Differences of logarithms below this are rounding."""

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval, in the unit of what it is an interval of."""

    low: float
    high: float


def median(values: Sequence[float]) -> float:
    """The middle value; the mean of the two middle ones of an even number."""
    return float(np.median(np.asarray(values, dtype=np.float64)))


def percentile(values: Sequence[float], q: float) -> float:
    """The value below which `q` percent lie, interpolated linearly."""
    return float(np.percentile(np.asarray(values, dtype=np.float64), q))


def median_interval(rounds: Sequence[Sequence[float]], seed: int) -> Interval | None:
    """The bootstrap interval of the median of all samples; whole rounds are resampled.

    The percentile interval is widened about the median by what Student's t has over the normal law, times
    sqrt(n / (n - 1)) for n rounds: without that it is too narrow for few rounds. None under 6 rounds.
    """
    filled = [np.asarray(samples, dtype=np.float64) for samples in rounds if len(samples)]
    count = len(filled)
    if count < LEAST_ROUNDS:
        return None
    samples = np.concatenate(filled)
    order = np.argsort(samples, kind="stable")
    owner = np.repeat(np.arange(count), [len(part) for part in filled])[order]
    samples = samples[order]
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    medians = np.array([_weighted_median(samples, weights[owner]) for weights in draws])
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    middle = float(np.median(samples))
    wider = _student(count - 1) / float(special.ndtri((1 + LEVEL) / 2)) * (count / (count - 1)) ** 0.5
    return Interval(
        min(middle, middle - (middle - float(low)) * wider),
        max(middle, middle + (float(high) - middle) * wider),
    )


def ratio_interval(base: Sequence[float], other: Sequence[float], seed: int) -> tuple[float, Interval | None]:
    """The speed-up base / other of latencies paired by round, and its interval; None under 6 rounds.

    A bootstrap-t interval of the 20% trimmed mean of the log ratios, symmetric in the log: a round with a
    hiccup does not move it. Its critical value is at least Student's, and it is widened for rounds that
    resemble their neighbours (see `_persistence`); a drift that both sides share cancels in the ratio.

    Simulated false claims between equal sides, 8 to 30 rounds: TABLE
    """
    pairs = min(len(base), len(other))
    above, below = (np.asarray(side[:pairs], dtype=np.float64) for side in (base, other))
    logs = np.log(above) - np.log(below)
    found, spread = _trimmed(logs[None])
    centre, error = float(found[0]), float(spread[0])
    if pairs < LEAST_ROUNDS:
        return math.exp(centre), None
    drawn = logs[np.random.default_rng(seed).integers(pairs, size=(RESAMPLES, pairs))]
    again, errors = _trimmed(drawn)
    away = np.abs(again - centre)
    scaled = np.divide(away, errors, out=np.where(away > _TINY, np.inf, 0.0), where=errors > _TINY)
    critical = np.sort(scaled)[math.ceil(LEVEL * RESAMPLES) - 1]
    half = max(float(critical), _student(pairs - 1)) * max(error, _TINY) * _persistence(logs)
    return math.exp(centre), Interval(_exp(centre - half), _exp(centre + half))


def claimed(interval: Interval | None) -> bool:
    """Whether an interval of a ratio excludes 1: only then is there a difference to speak of."""
    return interval is not None and not interval.low <= 1 <= interval.high


def _trimmed(rows: _Array) -> tuple[_Array, _Array]:
    """The mean of each row without its lowest and highest fifth, and its standard error (Yuen's)."""
    count = rows.shape[1]
    cut = count // 5
    kept = count - 2 * cut
    ordered = np.sort(rows, axis=1)
    centre = ordered[:, cut : count - cut].mean(axis=1)
    if count < 2:
        return centre, np.zeros_like(centre)
    drawn_in = np.clip(ordered, ordered[:, [cut]], ordered[:, [count - 1 - cut]])
    return centre, drawn_in.std(axis=1, ddof=1) * ((count - 1) / (kept * (kept - 1))) ** 0.5


def _persistence(values: _Array) -> float:
    """By how much the standard error of a mean grows as each value resembles the one before it.

    For a first-order autoregression with coefficient r it is sqrt((1 + r) / (1 - r)). r is the lag-1
    autocorrelation of the ranks, plus its bias in a short series (1 + 3 r) / n, plus half of its standard
    error: a short series cannot show that its values are independent. r is kept within 0 and 0.8.
    """
    count = len(values)
    ranks = stats.rankdata(values)
    away = ranks - ranks.mean()
    total = float(away @ away)
    seen = float(away[1:] @ away[:-1]) / total if total > 0 else 0.0
    r = min(max(seen + (1 + 3 * seen) / count + 0.5 / count**0.5, 0.0), 0.8)
    return ((1 + r) / (1 - r)) ** 0.5


def _exp(power: float) -> float:
    """e to a power that may be infinite or very large."""
    return math.inf if power > 700 else math.exp(power)


def _student(freedom: int) -> float:
    """The two-sided 95% quantile of Student's t."""
    return float(special.stdtrit(freedom, (1 + LEVEL) / 2))


def _weighted_median(samples: _Array, weights: NDArray[np.int64]) -> float:
    """The median of sorted samples, each taken `weights` times."""
    upto = np.cumsum(weights)
    half = upto[-1] / 2
    first = samples[np.searchsorted(upto, half, side="left")]
    return float(first + samples[np.searchsorted(upto, half, side="right")]) / 2
