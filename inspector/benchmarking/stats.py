"""Percentiles, and the uncertainty that the rounds of a measurement give them.

Samples of one round share its clock speed, temperature and neighbours, so the round is the unit that is
resampled, never the single sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

LEVEL = 0.95
LEAST_ROUNDS = 6
"""Fewer rounds get no interval."""
RESAMPLES = 2000

_Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval, in the unit of what it is an interval of."""

    low: float
    high: float


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
    """The speed-up base / other of latencies paired by round, and its interval; None under 6 rounds."""
    pairs = min(len(base), len(other))
    logs = np.log(np.asarray(base[:pairs], dtype=np.float64)) - np.log(
        np.asarray(other[:pairs], dtype=np.float64)
    )
    ratio = float(np.exp(logs.mean()))
    if pairs < LEAST_ROUNDS:
        return ratio, None
    centre, error = _centre(logs[None])
    drawn = np.random.default_rng(seed).integers(pairs, size=(RESAMPLES, pairs))
    again, errors = _centre(logs[drawn])
    away = np.abs(again - centre[0])
    scaled = np.divide(away, errors, out=np.where(away > 0, np.inf, 0.0), where=errors > 0)
    reach = max(float(np.quantile(scaled, LEVEL)), _student(pairs - 1))
    half = reach * float(error[0]) if error[0] > 0 else 0.0
    return ratio, Interval(float(np.exp(centre[0] - half)), float(np.exp(centre[0] + half)))


def claimed(interval: Interval | None) -> bool:
    """Whether an interval of a ratio excludes 1: only then can a difference be claimed."""
    return interval is not None and not interval.low <= 1 <= interval.high


def _centre(rows: _Array) -> tuple[_Array, _Array]:
    """Mean of each row and its standard error."""
    return rows.mean(axis=1), rows.std(axis=1, ddof=1) / rows.shape[1] ** 0.5


def _student(freedom: int) -> float:
    """The two-sided 95% quantile of Student's t."""
    return float(special.stdtrit(freedom, (1 + LEVEL) / 2))


def _weighted_median(samples: _Array, weights: NDArray[np.int64]) -> float:
    """The median of sorted samples, each taken `weights` times."""
    upto = np.cumsum(weights)
    half = upto[-1] / 2
    first = samples[np.searchsorted(upto, half, side="left")]
    return float(first + samples[np.searchsorted(upto, half, side="right")]) / 2
