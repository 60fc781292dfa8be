"""How far tensors are from their values in float64."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sums:
    """Squared error, squared norm of the reference, values not finite; `alike`: shapes were equal."""

    error: float = 0.0
    norm: float = 0.0
    nans: int = 0
    infs: int = 0
    alike: bool = True

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.error + other.error,
            self.norm + other.norm,
            self.nans + other.nans,
            self.infs + other.infs,
            self.alike and other.alike,
        )

    @property
    def relative(self) -> float | None:
        if not self.alike or self.nans or self.infs or not self.norm:
            return None
        ratio = math.sqrt(self.error) / math.sqrt(self.norm)
        return ratio if math.isfinite(ratio) else None


@torch.no_grad()
def measure(values: list[Tensor], truth: list[Tensor]) -> Tensor | None:
    """(error, norm, nans, infs) as a float64 tensor on the device; None when shapes differ."""
    if [value.shape for value in values] != [value.shape for value in truth]:
        return None
    pairs = [_pair(value.double(), reference) for value, reference in zip(values, truth)]
    return torch.stack(pairs).sum(0) if pairs else torch.zeros(4, dtype=torch.float64)


def _pair(value: Tensor, truth: Tensor) -> Tensor:
    truth = truth.to(value.device)
    finite = truth.isfinite()
    # what is not finite on either side is counted, not summed
    gap = (value - truth).nan_to_num(0.0, 0.0, 0.0)
    norm = truth.nan_to_num(0.0, 0.0, 0.0).square().sum()
    nans, infs = (value.isnan() & finite).sum(), (value.isinf() & finite).sum()
    return torch.stack([gap.square().sum(), norm, nans.double(), infs.double()])


def read(sums: Tensor | None) -> Sums:
    if sums is None:
        return Sums(alike=False)
    error, norm, nans, infs = sums.tolist()
    return Sums(error, norm, int(nans), int(infs))


def peak(values: Iterable[Tensor]) -> float | None:
    peaks = [float(v.abs().nan_to_num(0.0, posinf=0.0).amax()) for v in values if v.numel()]
    return max(peaks, default=None)
