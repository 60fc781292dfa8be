"""Does a tensor come from a law? Tests with all parameters known, exact about rounding.

Four tests, combined by Bonferroni: the largest magnitude, the second moment over all elements, the mean
over all elements, and Kolmogorov-Smirnov on up to 2^16 elements spread evenly over the tensor.

Low precision. torch draws bfloat16 and float16 from coarse grids: up to 2.8 a bfloat16 `uniform_` has 256
levels (its mean lies 2^-8 of the bound low) and a bfloat16 `normal_` ends at 3.33 sigma with 1.4% too
small a variance (sqrt(2 ln 2^8), Box-Muller of 8 random bits); float16 has 2048 levels, 3.90 sigma,
0.2%. `GRAIN` holds what was measured, with room; the tests forgive that much and no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from inspector.initialization.laws import Law

CHUNK = 2**15
"""Elements converted to float64 at a time on the CPU: they stay in the cache, and torch starts no threads for
so few; synchronising those would cost more than the work on a busy machine."""
GPU_CHUNK = 2**24
SAMPLE = 2**16
"""Elements for Kolmogorov-Smirnov: 0.0064 is its 1% quantile there."""


ENOUGH = 1e-9
"""Once a cheap test gives a smaller p-value, Kolmogorov-Smirnov is left out."""


@dataclass(frozen=True)
class Grain:
    """What a dtype does to a correct draw: `rounding` is the largest relative error of one element,
    `moment` the relative error of the second moment, `mean` the shift in sigmas, `distance` the
    Kolmogorov-Smirnov distance, `tail` where a normal law ends in sigmas, `smallest` the step near 0."""

    rounding: float
    moment: float
    mean: float
    distance: float
    tail: float
    smallest: float


GRAIN = {
    torch.float64: Grain(2**-52, 1e-7, 1e-6, 0.0, 5.7, 0.0),
    torch.float32: Grain(2**-23, 1e-6, 1e-5, 1e-6, 5.7, 0.0),
    torch.float16: Grain(2**-10, 0.004, 0.003, 0.0015, 3.85, 2**-24),
    torch.bfloat16: Grain(2**-7, 0.024, 0.02, 0.0085, 3.2, 0.0),
}


@dataclass(frozen=True)
class Sample:
    """What was measured on a tensor, all elements but for `values` (sorted, at most `SAMPLE` of them).
    `denormal` (of these) is the share of the nonzero elements below the smallest normal number."""

    numel: int
    dtype: torch.dtype
    mean: float
    square: float
    largest: float
    low: float
    high: float
    finite: bool
    denormal: float
    values: np.ndarray

    @property
    def rms(self) -> float:
        return math.sqrt(self.square)

    @property
    def is_constant(self) -> bool:
        return self.finite and self.low == self.high

    @property
    def garbage(self) -> bool:
        """NaN, infinity, or numbers that no initialisation gives and unwritten memory does."""
        return not self.finite or self.largest >= 1e15 or self.denormal >= 0.5


@dataclass(frozen=True)
class Fit:
    """How a sample agrees with a law: the combined p-value and what it is based on. `why` names the test
    with the smallest p-value. `distance` and `distance_p` are None where the test was not needed."""

    p: float
    why: str = ""
    distance: float | None = None
    distance_p: float | None = None


def measure(tensor: Tensor) -> Sample:
    """Read every element once, in float64 and in chunks; draw no random numbers."""
    flat = tensor.detach().reshape(-1)
    total = square = 0.0
    low, high, finite = math.inf, -math.inf, True
    size = CHUNK if flat.device.type == "cpu" else GPU_CHUNK
    buffer = torch.empty(min(size, flat.numel()), dtype=torch.float64, device=flat.device)
    for start in range(0, flat.numel(), size):
        chunk = flat[start : start + size]
        part = buffer[: len(chunk)].copy_(chunk)
        least, most = (float(value) for value in torch.aminmax(part))
        low, high = min(low, least), max(high, most)
        finite = finite and math.isfinite(least) and math.isfinite(most)
        total += float(part.sum())
        square += float(part @ part)
    count = max(flat.numel(), 1)
    picked = flat if flat.numel() <= SAMPLE else flat[_spread(flat.numel()).to(flat.device)]
    values = np.sort(picked.double().cpu().numpy())
    return Sample(
        numel=flat.numel(),
        dtype=tensor.dtype,
        mean=total / count,
        square=square / count,
        largest=max(abs(low), abs(high)),
        low=low,
        high=high,
        finite=finite,
        denormal=_denormal(values, tensor.dtype),
        values=values,
    )


def _denormal(values: np.ndarray, dtype: torch.dtype) -> float:
    """Share of the nonzero values below the smallest normal number; float16 uses those rightly."""
    filled = np.abs(values[values != 0])
    if dtype is torch.float16 or not len(filled):
        return 0.0
    return float(np.mean(filled < torch.finfo(dtype).tiny))


@lru_cache(maxsize=64)
def _spread(count: int) -> Tensor:
    """Indices of SAMPLE elements in the steps of a golden-ratio walk: even over the tensor, and not in
    step with its rows as a plain stride would be."""
    step = round(count * 0.6180339887)
    while math.gcd(step, count) != 1:
        step += 1
    return torch.from_numpy(np.arange(SAMPLE, dtype=np.int64) * step % count)


def fit(sample: Sample, law: Law) -> Fit:
    """Test a sample of two or more elements against a uniform or normal law."""
    if law.scale <= 0 or not sample.finite:
        return Fit(0.0, "law")
    shift = max(abs(sample.mean) / law.std - grain(sample).mean, 0.0)
    mean = _two_sided(shift * math.sqrt(sample.numel))
    tests = {"largest": _largest(sample, law), "std": _moment(sample, law), "mean": mean}
    distance = None
    if min(tests.values()) >= ENOUGH:
        distance, tests["ks"] = kolmogorov_smirnov(sample, law)
    why = min(tests, key=tests.__getitem__)
    return Fit(min(1.0, 4 * tests[why]), why, distance, tests.get("ks"))  # Bonferroni, four tests


def grain(sample: Sample) -> Grain:
    return GRAIN[sample.dtype]


def _largest(sample: Sample, law: Law) -> float:
    """Two-sided p-value of the largest magnitude of n independent draws."""
    slack = 2 * grain(sample).rounding
    extreme = sample.largest - grain(sample).smallest
    beyond = law.outside(extreme / (1 + slack))
    over = -math.expm1(sample.numel * math.log1p(-beyond)) if beyond < 1 else 1.0
    if extreme > law.bound * (1 + slack):
        return 0.0
    if law.family == "normal" and sample.largest >= grain(sample).tail * law.scale:
        under = 1.0  # the generator has no larger numbers
    else:
        beyond = law.outside((sample.largest + grain(sample).smallest) * (1 + 2 * slack))
        under = math.exp(sample.numel * math.log1p(-beyond)) if beyond < 1 else 0.0
    return min(1.0, 2 * min(over, under))


def _moment(sample: Sample, law: Law) -> float:
    """Two-sided p-value of the mean square about 0.

    Exact for a normal law (chi-squared). Else the larger of the normal and the gamma approximation: the
    skewness of w^2 lies between theirs, so that the p-value errs to the high side at both ends.
    """
    n, ratio = sample.numel, sample.square / law.std**2
    grid = grain(sample).moment + (grain(sample).smallest / law.std) ** 2
    excess = math.copysign(max(abs(ratio - 1) - grid, 0.0), ratio - 1)
    from scipy.special import gammainc, gammaincc

    shape = n / (law.kurtosis - 1)
    at = shape * (1 + excess)
    exact = 2 * min(float(gammainc(shape, at)), float(gammaincc(shape, at)))
    if law.kurtosis == 3.0:
        return min(1.0, exact)
    return min(1.0, max(exact, _two_sided(excess * math.sqrt(shape))))


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


def kolmogorov_smirnov(sample: Sample, law: Law) -> tuple[float, float]:
    """Distance and p-value. A rounded value stands for all that rounds to it: the share of the elements
    up to and including it is compared with the CDF at the upper edge of its cell."""
    from scipy.stats import kstwo

    values, n = sample.values, len(sample.values)
    at = np.flatnonzero(np.append(values[1:] != values[:-1], True))  # the last of each run of equals
    share, points = (at + 1) / n, values[at]
    before = np.concatenate(([0.0], share[:-1]))
    upper = lower = law.cdf(points)
    if sample.dtype in _BITS:
        half = _half_cell(points, sample)
        upper, lower = law.cdf(points + half), law.cdf(points - half)
    distance = float(max(np.abs(share - upper).max(), np.abs(lower - before).max()))
    return distance, float(kstwo.sf(max(distance - grain(sample).distance, 0.0), n))


_BITS = {torch.bfloat16: 8, torch.float16: 11}
"""Bits of the significand, the implied one included."""


def _half_cell(values: np.ndarray, sample: Sample) -> np.ndarray:
    """Half the distance between neighbouring numbers of the dtype, at each value."""
    _, exponent = np.frexp(values)
    half = np.where(values == 0, 0.0, np.ldexp(0.5, exponent - _BITS[sample.dtype]))
    return np.maximum(half, grain(sample).smallest / 2)


def orthogonal_error(tensor: Tensor, gain: float) -> float:
    """max |W W^T - gain^2 I| / gain^2, on the shorter side, in blocks of rows."""
    matrix = tensor.detach().reshape(tensor.shape[0], -1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    worst = 0.0
    whole = matrix.float() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix
    for start in range(0, len(matrix), 1024):
        gram = whole[start : start + 1024] @ whole.T
        rows = torch.arange(len(gram), device=gram.device)
        gram[rows, rows + start] -= gain**2
        worst = max(worst, float(gram.abs().max()))
    return worst / gain**2


def orthogonal_tolerance(dtype: torch.dtype) -> float:
    """What a QR decomposition in float32 leaves, and rounding to the dtype adds."""
    return 2 * GRAIN[dtype].rounding + 2e-5


def row_lengths(tensor: Tensor, rows: int = 32) -> tuple[float, float]:
    """Mean length of the first `rows` rows (columns, where these are fewer), and its relative spread."""
    matrix = tensor.detach().reshape(tensor.shape[0], -1)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    lengths = matrix[:rows].float().norm(dim=1)
    mean = float(lengths.mean())
    return mean, float((lengths.max() - lengths.min()) / max(mean, 1e-30))


def repeated_rows(tensor: Tensor) -> int:
    """How many rows (output channels) are copies of another row. Rows too short to differ by chance
    alone count as different."""
    if tensor.dim() < 2 or tensor.numel() < 2 * len(tensor):
        return 0
    rows = tensor.detach().reshape(len(tensor), -1)
    width = 3 if rows.dtype in (torch.float32, torch.float64) else 24
    if rows.shape[1] < width:
        return 0
    keys = rows[:, : 4 * width].contiguous().cpu()
    _, inverse, counts = torch.unique(keys, dim=0, return_inverse=True, return_counts=True)
    if int(counts.max()) == 1:
        return 0
    groups = [torch.nonzero(inverse == group).flatten() for group in torch.nonzero(counts > 1).flatten()]
    return sum(len(g) - len(torch.unique(rows[g.to(rows.device)], dim=0)) for g in groups)


def precision(tensor: Tensor) -> torch.dtype:
    """The narrowest dtype that holds every element as it is: bfloat16 for a float32 tensor that was
    once rounded to it. The tensor's own where none does, and for tensors of one value."""
    if tensor.dtype not in (torch.float32, torch.float64) or tensor.numel() < 8:
        return tensor.dtype
    flat = tensor.detach().reshape(-1)
    head = flat[:1024]
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(head.to(dtype).to(flat.dtype), head) and torch.equal(
            flat.to(dtype).to(flat.dtype), flat
        ):
            return dtype
    return tensor.dtype
