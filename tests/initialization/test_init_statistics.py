"""The tests themselves: sizes under the null, power against the mistakes, rounding of each dtype."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from inspector.initialization import laws, statistics
from inspector.initialization.examine import holm
from inspector.initialization.laws import Law
from inspector.initialization.statistics import fit, kolmogorov_smirnov, measure


def p_value(tensor: Tensor, law: Law) -> float:
    return fit(measure(tensor), law).p


def test_measure_agrees_with_numpy_over_several_chunks() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(300, 333)  # three chunks, the last one short
    sample, values = measure(tensor), tensor.double().numpy()
    assert sample.numel == values.size
    assert sample.mean == pytest.approx(values.mean(), abs=1e-12)
    assert sample.square == pytest.approx((values**2).mean(), rel=1e-12)
    assert (sample.low, sample.high, sample.largest) == (values.min(), values.max(), abs(values).max())


def test_the_sample_of_a_large_tensor_is_spread_over_all_rows() -> None:
    rows = torch.arange(1024.0).repeat_interleave(1024).reshape(1024, 1024)
    counts = np.bincount(measure(rows).values.astype(int), minlength=1024)
    assert counts.sum() == statistics.SAMPLE
    assert counts.min() >= 48  # 64 each, on average
    assert counts.max() <= 80


def test_kolmogorov_smirnov_agrees_with_scipy() -> None:
    torch.manual_seed(0)
    tensor = torch.empty(500, dtype=torch.float64).normal_(0, 0.3)
    distance, p = kolmogorov_smirnov(measure(tensor), laws.normal(0.31))
    oracle = stats.kstest(tensor.numpy(), stats.norm(scale=0.31).cdf, mode="exact")
    assert distance == pytest.approx(oracle.statistic, rel=1e-12)
    assert p == pytest.approx(oracle.pvalue, rel=1e-6)


def test_a_0_for_a_1_has_the_distance_of_the_closed_form() -> None:
    # U(+-sqrt 6) against U(+-sqrt 3): largest where the narrow one ends, (1 - 1/sqrt 2) / 2.
    wide = torch.linspace(-math.sqrt(6), math.sqrt(6), 60001, dtype=torch.float64)
    distance, _ = kolmogorov_smirnov(measure(wide), laws.uniform(math.sqrt(3)))
    assert distance == pytest.approx((1 - 1 / math.sqrt(2)) / 2, abs=1e-4)


@pytest.mark.parametrize("law", [laws.uniform(0.1), laws.normal(0.1), laws.normal(0.1, cut=0.2)])
@pytest.mark.parametrize("count", [1, 8, 64, 4000])
def test_a_correct_tensor_is_rejected_no_more_often_than_promised(law: Law, count: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        tensor = torch.empty(count)
        if law.family == "uniform":
            return tensor.uniform_(-law.scale, law.scale, generator=generator)
        return nn.init.trunc_normal_(tensor, 0, law.scale, -min(law.cut, 2), min(law.cut, 2), generator)

    ps = np.array([p_value(draw(), law) for _ in range(300)])
    # 5% of 300 is 15; a binomial exceeds 27 with probability 0.2%
    assert (ps < 0.05).sum() <= 27


@pytest.mark.parametrize("count", [100, 1000, 100_000])
def test_a_0_for_a_1_is_found_from_100_elements_on(count: int) -> None:
    # None of n wide draws beyond the narrow bound: 0.707^n, 1e-15 at 100.
    generator = torch.Generator().manual_seed(0)
    tensor = torch.empty(count).uniform_(-math.sqrt(2), math.sqrt(2), generator=generator)
    assert p_value(tensor, laws.uniform(1.0)) == 0.0
    narrow = torch.empty(count).uniform_(-1, 1, generator=generator)
    assert p_value(narrow, laws.uniform(math.sqrt(2))) < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cast", [True, False], ids=["cast", "drawn"])
@pytest.mark.parametrize("scale", [1.0, 0.0773, 0.02, 0.0339])
def test_low_precision_passes_when_right_and_fails_when_wrong(
    dtype: torch.dtype, cast: bool, scale: float
) -> None:
    torch.manual_seed(0)
    start = torch.empty(2_000_000, dtype=torch.float32 if cast else dtype)
    flat = start.clone().uniform_(-scale, scale).to(dtype)
    bell = start.clone().normal_(0, scale).to(dtype)
    assert p_value(flat, laws.uniform(scale)) > 1e-4
    assert p_value(bell, laws.normal(scale)) > 1e-4
    for wrong in (0.9, 1.1, math.sqrt(2)):
        assert p_value(flat, laws.uniform(scale * wrong)) < 1e-9
        assert p_value(bell, laws.normal(scale * wrong)) < 1e-9
    assert p_value(flat, laws.normal(scale / math.sqrt(3))) < 1e-9
    assert p_value(bell, laws.uniform(scale * math.sqrt(3))) < 1e-9


def test_torch_2_8_draws_a_bfloat16_truncated_normal_wrong_and_the_test_says_so() -> None:
    """erfinv(-1) on the coarse grid: one element in 256 becomes the cut, -2, a hundred sigmas away."""
    torch.manual_seed(0)
    tensor = nn.init.trunc_normal_(torch.empty(100_000, dtype=torch.bfloat16), std=0.02)
    right = float(tensor.float().std()) < 0.021
    assert (p_value(tensor, laws.normal(0.02, cut=2.0)) > 1e-4) == right


@pytest.mark.parametrize("shape", [(64, 64), (32, 200), (200, 32), (1500, 1200)])
def test_an_orthogonal_matrix_has_no_error_beyond_its_tolerance(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tensor = nn.init.orthogonal_(torch.empty(*shape), gain=1.5)
    tolerance = statistics.orthogonal_tolerance(tensor.dtype)
    assert statistics.orthogonal_error(tensor, 1.5) < tolerance
    assert statistics.orthogonal_error(tensor, 1.501) > tolerance
    tensor[0, 0] += 0.01
    assert statistics.orthogonal_error(tensor, 1.5) > tolerance


def test_repeated_rows_are_counted_and_short_rows_are_not() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(6, 8)
    assert statistics.repeated_rows(tensor) == 0
    tensor[3] = tensor[1]
    tensor[5] = tensor[1]
    assert statistics.repeated_rows(tensor) == 2
    late = torch.cat([torch.ones(4, 12), torch.randn(4, 12)], dim=1)  # equal at first, not later
    assert statistics.repeated_rows(late) == 0
    coarse = torch.empty(5000, 2, dtype=torch.bfloat16).uniform_(-1, 1)  # chance makes equal pairs
    assert statistics.repeated_rows(coarse) == 0


def test_precision_tells_what_the_values_passed_through() -> None:
    torch.manual_seed(0)
    tensor = torch.randn(2000)
    assert statistics.precision(tensor) is torch.float32
    assert statistics.precision(tensor.bfloat16().float()) is torch.bfloat16
    assert statistics.precision(tensor.half().float()) is torch.float16


def test_holm_rejects_step_by_step() -> None:
    # 0.05/4, 0.05/3, 0.05/2, 0.05/1: the third fails its step, and ends it.
    assert holm([0.03, 0.01, 0.016, 0.04], 0.05) == [False, True, True, False]
    assert holm([0.02, 0.02], 0.05) == [True, True]
    assert holm([], 0.05) == []
