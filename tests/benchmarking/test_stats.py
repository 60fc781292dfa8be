"""Intervals against arithmetic done by hand, and how often they claim a difference that is not there."""

from __future__ import annotations

from statistics import median

import numpy as np
import pytest

from inspector.benchmarking.stats import (
    Interval,
    claimed,
    median_interval,
    percentile,
    ratio_interval,
)


def test_medians_and_percentiles() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert median([1.0, 2.0, 3.0, 10.0]) == 2.5
    assert percentile([0.0, 10.0], 95) == pytest.approx(9.5)


def test_few_rounds_have_no_interval() -> None:
    assert median_interval([[1.0]] * 5, 0) is None
    ratio, interval = ratio_interval([2.0] * 5, [1.0] * 5, 0)
    assert (ratio, interval) == (pytest.approx(2.0), None)
    assert not claimed(None)


def test_rounds_that_agree_have_a_narrow_interval() -> None:
    ratio, interval = ratio_interval([2.0] * 8, [1.0] * 8, 0)
    assert ratio == pytest.approx(2.0)
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(2.0), pytest.approx(2.0))
    assert median_interval([[3.0, 3.0]] * 6, 0) == Interval(3.0, 3.0)


def test_drift_that_meets_both_alike_cancels() -> None:
    drift = np.linspace(1.0, 2.0, 10)  # the device slows down to a half
    ratio, interval = ratio_interval(list(1.5 * drift), list(drift), 0)
    assert ratio == pytest.approx(1.5)
    assert interval is not None
    assert interval.high - interval.low < 1e-9


def test_the_same_seed_gives_the_same_interval() -> None:
    values = list(np.random.default_rng(3).lognormal(0, 0.1, 12))
    assert ratio_interval(values, values[::-1], 5) == ratio_interval(values, values[::-1], 5)


@pytest.mark.parametrize("rounds", [8, 12, 30])
@pytest.mark.parametrize("kind", ["lognormal", "heavy tails"])
def test_at_most_5_percent_of_equal_pairs_differ(rounds: int, kind: str) -> None:
    """400 A/A comparisons; 5% of them is 20, and a fair 5% stays under 35 with probability 0.9995."""
    generator = np.random.default_rng(rounds)

    def noise() -> np.ndarray:
        drawn = generator.standard_normal(rounds)
        return np.exp(0.03 * (drawn if kind == "lognormal" else generator.standard_t(3, rounds)))

    claims = 0
    for run in range(400):
        common = np.exp(0.05 * generator.standard_normal(rounds))
        claims += claimed(ratio_interval(list(noise() * common), list(noise() * common), run)[1])
    assert claims <= 35 if kind == "lognormal" else claims <= 20


def test_a_tenth_is_found_at_3_percent_noise() -> None:
    generator = np.random.default_rng(1)
    found = sum(
        claimed(
            ratio_interval(
                list(1.1 * np.exp(0.03 * generator.standard_normal(12))),
                list(np.exp(0.03 * generator.standard_normal(12))),
                run,
            )[1]
        )
        for run in range(200)
    )
    assert found >= 180
