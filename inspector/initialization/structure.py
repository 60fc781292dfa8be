"""What independent draws never show, whatever their law: slices that are copies, an order, a low rank.

Each rule asks for coincidences that chance gives with a probability far below 1e-9 a tensor, so that none
of them takes part in the family-wise error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inspector.initialization.statistics import Sample

AXES = ("rows (output channels)", "columns (input channels)")
LOOKED_AT = 2**18
"""Elements among which an order, a spread and repeated kernel positions are looked for."""
SIDE = 128
"""Rows and columns of the corner whose rank is taken."""
WIDTH = {8: 3, 4: 3, 2: 24, 1: 24}
"""Elements, by their bytes, that a slice must have before equality proves a copy."""
SURE = 7.2
"""Standard deviations: two-sided p 6e-13."""
PREFIX = 64
"""First elements of a tensor that are compared with those of others."""
SAME = 0.999
"""Cosine from which two prefixes are one draw: of 16 independent elements below 1e-20 by chance."""


def structure(tensor: Tensor, magnitudes: Magnitudes, precision: torch.dtype) -> str:
    """What is wrong with a tensor that should be drawn independently; empty if nothing is."""
    tensor = tensor.detach()
    fine = precision.itemsize >= 4
    return (
        _slices(tensor, precision)
        or _order(_part(tensor))
        or (_pieces(magnitudes) if fine and not atoms(magnitudes, precision) else "")
        or (_rank(tensor) if fine else "")
    )


def _slices(tensor: Tensor, precision: torch.dtype) -> str:
    for axis in range(tensor.dim()):
        looked = tensor if axis < 2 else _part(tensor)
        size = tensor.shape[axis]
        if tensor.dim() > 1 and looked.numel() // size >= WIDTH[precision.itemsize]:
            name = AXES[axis] if axis < 2 else f"positions along dimension {axis}"
            count, how = copies(looked, axis)
            if count:
                return f"{count} of {size} {name} {how}"
    return ""


def copies(tensor: Tensor, axis: int) -> tuple[int, str]:
    """How many slices along `axis` another one gives by copying, by negation or in another order of its
    elements, and which of these (a zero slice, too, is no draw). Sums of magnitudes find the pairs; in low
    precision, where those meet by chance, sums of squares beside them."""
    sums = _sums(tensor, axis)
    zeros = int((sums == 0).sum())
    if zeros:
        return zeros, "are zero"
    if tensor.element_size() < 4:
        sums = sums + math.e * _sums(tensor, axis, squares=True)
    sums, order = sums.sort()
    near = (sums[1:] - sums[:-1] <= 1e-12 * sums[1:]).nonzero().flatten().tolist()
    kinds: list[str] = []
    for position in near:
        pair = (tensor.select(axis, int(order[position + step])).flatten() for step in (0, 1))
        kinds.append(_kinship(*pair))
    kinds = [kind for kind in kinds if kind]
    return len(kinds), kinds[0] if kinds else ""


def _sums(tensor: Tensor, axis: int, squares: bool = False) -> Tensor:
    """The sum of the magnitudes, or squares, of each slice along `axis`, in pieces that stay in the cache."""
    others = [dim for dim in range(tensor.dim()) if dim != axis]
    sums = []
    for piece in tensor.split(max(1, LOOKED_AT * len(tensor) // tensor.numel())):
        values = piece.float().square() if squares else piece.abs()
        sums.append(values.sum(others, dtype=torch.float64).cpu())
    return torch.cat(sums) if axis == 0 else torch.stack(sums).sum(0)


def _kinship(one: Tensor, other: Tensor) -> str:
    if torch.equal(one, other):
        return "repeat another"
    if torch.equal(one, -other):
        return "are the negative of another"
    if torch.equal(one.abs().sort().values, other.abs().sort().values):
        return "hold the values of another in a different order"
    return ""


def _order(part: Tensor) -> str:
    """Sorted, or smooth: neighbours that are alike."""
    part = part.float()
    for axis in range(part.dim()):
        size = part.shape[axis]
        if part.numel() < 16 or size < 2:
            continue
        before, after = part.narrow(axis, 0, size - 1), part.narrow(axis, 1, size - 1)
        pairs = before.numel()
        rising = int((after >= before).sum())
        if size >= 16 and (rising == pairs or int((after <= before).sum()) == pairs):
            return f"the values are sorted along dimension {axis}"
        spread = float(before.square().mean() * after.square().mean()) ** 0.5
        alike = float((before * after).mean()) / spread if spread else 0.0
        if pairs > 32 and abs(alike) < 1 and abs(math.atanh(alike)) * math.sqrt(pairs - 3) > SURE:
            if abs(alike) > 0.2:
                return f"neighbours along dimension {axis} are alike (correlation {alike:.2f})"
    return ""


def spread(tensor: Tensor, sample: Sample) -> str:
    """Whether slices are of more, or of less, than one size; empty if not.

    The sum of `width` squares has the relative variance (kurtosis - 1) / width; its estimate over the
    slices follows chi-squared closely enough.
    """
    if tensor.dim() < 2:
        return ""
    square = sample.values**2
    kurtosis = float(np.mean(square**2) / np.mean(square) ** 2)
    matrix = tensor.detach().flatten(1)
    rows = matrix[:, : max(16, LOOKED_AT // len(matrix))]
    columns = _part(tensor.detach()).transpose(0, 1).flatten(1)
    for name, slices in zip(AXES, (rows, columns)):
        count, width = slices.shape
        if width < 16 or count < 8 or kurtosis < 1.1:
            continue
        sums = torch.linalg.vector_norm(slices, 2, dim=1, dtype=torch.float64).square()
        ratio = float((sums / sums.mean()).var()) * width / (kurtosis - 1)
        if count >= 64 and ratio < 0.1:
            return f"all {count} {name} have nearly the same length: normalised after the draw?"
        if ratio > 3 + 20 / math.sqrt(count):
            return f"the {name} are not of one size: their lengths vary {ratio**0.5:.2g} times too much"
    return ""


def too_even(distance: float | None, count: int, precision: torch.dtype) -> bool:
    """Whether values follow their law more closely than random ones do: linspace, shuffled. Kolmogorov's
    distribution gives sqrt(n) D < 0.2 with the probability 5e-13: sqrt(2 pi) / x * exp(-pi^2 / (8 x^2))."""
    return distance is not None and precision.itemsize >= 4 and count >= 64 and distance < 0.2 / count**0.5


def _part(tensor: Tensor) -> Tensor:
    """The first rows, as many as are looked at."""
    if tensor.numel() <= LOOKED_AT:
        return tensor
    width = tensor.numel() // len(tensor)
    return tensor[: max(2, LOOKED_AT // width)]


@dataclass(frozen=True)
class Magnitudes:
    """The different magnitudes of a sample, sorted, and how many elements have each."""

    values: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(sample: Sample) -> Magnitudes:
        values = sample.values
        negative = int(np.searchsorted(values, 0.0))
        both = np.concatenate((-values[:negative][::-1], values[negative:]))
        both.sort(kind="stable")  # two runs, merged
        last = np.flatnonzero(np.append(both[1:] != both[:-1], True))
        return Magnitudes(both[last], np.diff(last, prepend=-1))

    @property
    def total(self) -> int:
        return int(self.counts.sum())


def _pieces(magnitudes: Magnitudes) -> str:
    """Magnitudes of 24 random bits hardly ever meet: 65,536 of them have 256 pairs."""
    counts = magnitudes.counts
    again = float(counts[counts > 1].sum()) / magnitudes.total
    if magnitudes.total < 64 or again < 0.1:
        return ""
    return f"{100 * again:.0f}% of the magnitudes occur more than once: parts of it are copies"


def atoms(magnitudes: Magnitudes, precision: torch.dtype) -> str:
    """A value, or a few, that take a share of the elements which no continuous law gives them."""
    values, counts, total = magnitudes.values, magnitudes.counts, magnitudes.total
    if precision.itemsize < 4 or total < 64 or len(values) < 2 or counts.max() < 8:
        return ""
    most = int(counts.argmax())
    if len(values) < total / 4 and counts[most] < total / 4:
        return f"only {len(values)} magnitudes occur in {total} elements: quantised once?"
    share = f"{100 * counts[most] / total:.2g}% of the elements"
    if values[most] == 0:
        return f"{share} are exactly zero: pruned, masked, or loaded in part?"
    limit = ", the largest: clamped?" if most == len(values) - 1 else ""
    return f"{share} have the one magnitude {values[most]:.4g}{limit}"


def _rank(tensor: Tensor) -> str:
    """The rank of the first rows and columns: two singular values of zero prove that it is low."""
    matrix = tensor.reshape(len(tensor), -1)[:SIDE, :SIDE] if tensor.dim() > 1 else tensor[:, None]
    side = min(matrix.shape)
    if side < 8:
        return ""
    values = torch.linalg.svdvals(matrix.double())
    rank = int((values > 1e-6 * values[0]).sum())
    return f"its rank is low: {rank} where {side} rows are independent" if rank <= side - 2 else ""


def one_draw(prefixes: list[Tensor]) -> list[tuple[int, int, float]]:
    """Pairs of tensors (by index, each with the first that it repeats) whose first elements are one draw,
    with the ratio of their scales. Two schemes that start from one seed differ in nothing else."""
    pairs: list[tuple[int, int, float]] = []
    taken: set[int] = set()
    for width in (PREFIX, 16):
        which = [i for i, prefix in enumerate(prefixes) if len(prefix) >= width and i not in taken]
        if len(which) < 2:
            continue
        rows = torch.stack([prefixes[i][:width].double().cpu() for i in which])
        lengths = rows.norm(dim=1)
        cosines = (rows @ rows.T) / (lengths[:, None] * lengths).clamp_min(1e-300)
        for later in range(1, len(which)):
            best = int(cosines[later, :later].abs().argmax())
            if abs(float(cosines[later, best])) >= SAME:
                ratio = float(cosines[later, best].sign() * lengths[later] / lengths[best])
                pairs.append((which[best], which[later], ratio))
                taken.add(which[later])
    return pairs


def same_values(samples: list[Sample]) -> list[tuple[int, int]]:
    """Pairs of tensors (by index) that hold the same magnitudes, in whatever order: all sums agree."""
    pairs: list[tuple[int, int]] = []
    first: dict[tuple[int, float], list[int]] = {}
    for i, sample in enumerate(samples):
        enough = 16 if sample.dtype.itemsize >= 4 else 4096
        if sample.numel < enough or sample.is_constant:
            continue
        earlier = first.setdefault((sample.numel, sample.largest), [])
        match = next((j for j in earlier if _alike(samples[j], sample)), None)
        if match is not None:
            pairs.append((match, i))
        earlier.append(i)
    return pairs


def _alike(one: Sample, other: Sample) -> bool:
    if not math.isclose(one.square, other.square, rel_tol=1e-11):
        return False
    if abs(abs(one.mean) - abs(other.mean)) > 1e-11 * one.rms:
        return False
    whole = one.numel == len(one.values)
    return not whole or np.array_equal(np.sort(np.abs(one.values)), np.sort(np.abs(other.values)))
