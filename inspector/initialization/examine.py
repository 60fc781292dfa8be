"""One tensor against one law: what was measured, and whether the law is rejected."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from inspector.initialization import statistics
from inspector.initialization.known import candidates
from inspector.initialization.laws import Law
from inspector.initialization.statistics import GRAIN, Fit, Sample, fit
from inspector.initialization.structure import Magnitudes, atoms, spread, structure, too_even
from inspector.initialization.targets import EMBEDDINGS, Target

STATUSES = ("matches", "differs", "ambiguous", "inconclusive", "constant", "uninitialised")
ALPHA = 0.005
"""The chance that any tensor of a correct model is called wrong: Holm over all tensors. Half of the 1%
that is promised, so that a count over 1,000 seeds keeps the promise too."""


@dataclass(frozen=True)
class Evidence:
    """A target with its measured sample; `sample` is None where no values can be tested, `untested` says
    why. What is costly is computed when asked for."""

    target: Target
    sample: Sample | None
    untested: str = ""
    _tested: dict[tuple[str, float, float], Fit] = field(default_factory=dict, repr=False)

    @cached_property
    def values(self) -> Tensor:
        return self.target.read()

    @cached_property
    def copies(self) -> int:
        """Rows that repeat another row exactly."""
        return statistics.repeated_rows(self.values)

    @property
    def varied(self) -> bool:
        """Whether there are values that can be looked through: numbers, and not all the same."""
        return self.sample is not None and not self.sample.is_constant and not self.sample.garbage

    @cached_property
    def magnitudes(self) -> Magnitudes:
        assert self.sample is not None
        return Magnitudes.of(self.sample)

    @cached_property
    def structure(self) -> str:
        """What shows that the values were not drawn independently."""
        return structure(self.values, self.magnitudes, self.precision) if self.varied else ""

    @cached_property
    def atoms(self) -> str:
        """Values that occur too often for a continuous law."""
        return atoms(self.magnitudes, self.precision) if self.varied else ""

    @cached_property
    def spread(self) -> str:
        """Channels that are not of one size."""
        return spread(self.values, self.sample) if self.varied and self.sample is not None else ""

    def even(self, fit: Fit | None) -> bool:
        """Whether the values follow the tested law too closely."""
        if fit is None or self.sample is None:
            return False
        return too_even(fit.distance, len(self.sample.values), self.precision)

    @property
    def flaw(self) -> str:
        """What no law of single elements explains."""
        repeated = f"{self.copies} rows are copies" if self.copies else ""
        return repeated or self.structure or self.atoms or self.spread

    @property
    def padding(self) -> int | None:
        """The padding row of an embedding, where it is not zero."""
        index = getattr(self.target.module, "padding_idx", None)
        if index is None or not isinstance(self.target.module, EMBEDDINGS) or self.values.is_meta:
            return None
        whole = len(self.values) == self.target.module.num_embeddings  # a zero row is not read
        return int(index) if whole and bool(self.values[index].any()) else None

    @cached_property
    def precision(self) -> torch.dtype:
        return statistics.precision(self.values)

    @property
    def constant(self) -> bool:
        """All elements equal, and not by chance: a coarse grid repeats a value now and then."""
        assert self.sample is not None
        return self.sample.is_constant and self.sample.numel >= (2 if self.sample.dtype.itemsize >= 4 else 4)

    def fits(self, law: Law, alpha: float) -> bool:
        """Whether a law is not rejected at `alpha`."""
        if law.family == "orthogonal":
            return self.orthogonal(law.scale)
        if law.family == "constant":
            return self.equals(law.scale)
        return self.tested(law).p >= alpha

    def tested(self, law: Law) -> Fit:
        """The test of a uniform or normal law, made once."""
        assert self.sample is not None
        key = (law.family, law.scale, law.cut)
        if key not in self._tested:
            self._tested[key] = fit(self.sample, law)
        return self._tested[key]

    def rounded(self) -> Evidence:
        """The same values, judged as the narrower dtype that they fit into."""
        assert self.sample is not None
        return Evidence(self.target, replace(self.sample, dtype=self.precision))

    def equals(self, value: float) -> bool:
        assert self.sample is not None
        stored = torch.tensor(value, dtype=self.sample.dtype).item()
        return self.sample.is_constant and self.sample.low == stored

    def orthogonal(self, gain: float) -> bool:
        assert self.sample is not None
        if self.values.dim() < 2:
            return False
        tolerance = statistics.orthogonal_tolerance(self.sample.dtype)
        mean, spread = statistics.row_lengths(self.values)
        if abs(mean / gain - 1) > tolerance or spread > 2 * tolerance:
            return False  # the lengths are cheap, the products are not
        return statistics.orthogonal_error(self.values, gain) <= tolerance

    @cached_property
    def orthogonal_gain(self) -> float | None:
        """The gain of an orthogonal matrix, None for all others."""
        if self.values.dim() < 2 or min(len(self.values), self.values[0].numel()) < 2:
            return None
        gain, _ = statistics.row_lengths(self.values)
        return gain if gain > 0 and self.orthogonal(gain) else None


def gather(target: Target) -> Evidence:
    """Measure a target, or say why it cannot be."""
    tensor = target.read()
    if tensor.is_meta:
        return Evidence(target, None, "is on meta and has no values")
    if tensor.dtype not in GRAIN:
        kind = "scaled codes" if "float8" in str(tensor.dtype) else "no real numbers"
        return Evidence(target, None, f"holds {kind} ({str(tensor.dtype).removeprefix('torch.')})")
    if not tensor.numel():
        return Evidence(target, None, "has no elements")
    return Evidence(target, statistics.measure(tensor))


def rivals(evidence: Evidence, expected: Law, alpha: float) -> tuple[list[Law], list[Law]]:
    """Other known laws that are not rejected either: those with the same numbers under another name,
    and those with other numbers."""
    twins: list[Law] = []
    others: list[Law] = []
    for law in candidates(evidence.target):
        if law.same(expected):
            if not _alias(law.label, expected.label):
                twins.append(law)
        elif evidence.fits(law, alpha):
            others.append(law)
    return distinct(twins), distinct(others)


def distinct(laws: list[Law]) -> list[Law]:
    """Without laws that are another one by definition: "default (xavier_uniform)" is xavier_uniform."""
    kept: list[Law] = []
    for law in laws:
        if not any(_alias(law.label, other.label) and law.same(other) for other in kept):
            kept.append(law)
    return kept


def _alias(one: str, other: str) -> bool:
    """Whether two labels of one law mean the same definition, one of them perhaps in fewer words."""
    short, long = sorted((_bare(one), _bare(other)), key=len)
    return long == short or long.startswith(f"{short} ")


def _bare(label: str) -> str:
    return label.removeprefix("default (").removesuffix(")") if label.startswith("default (") else label


def holm(ps: list[float], alpha: float = ALPHA) -> list[bool]:
    """Which hypotheses Holm's step-down procedure rejects at the family-wise level `alpha`."""
    order = sorted(range(len(ps)), key=lambda i: ps[i])
    rejected = [False] * len(ps)
    for rank, i in enumerate(order):
        if ps[i] >= alpha / (len(ps) - rank):
            break
        rejected[i] = True
    return rejected


def numbers(evidence: Evidence, law: Law, tested: Fit | None = None) -> str:
    """Expected and measured, for messages."""
    sample = evidence.sample
    if sample is None:
        return evidence.untested
    if law.family == "orthogonal":
        error = statistics.orthogonal_error(evidence.values, law.scale)
        return f"max|WW^T/gain^2 - I| {error:.3g}, expected 0"
    if law.family == "constant":
        return f"values {sample.low:.4g} to {sample.high:.4g}, expected {law.scale:.4g}"
    parts = [f"std {sample.rms:.4g}, expected {law.std:.4g}"]
    if math.isfinite(law.bound):
        parts.append(f"max|w| {sample.largest:.4g}, bound {law.bound:.4g}")
    if tested is not None and tested.distance is not None:
        parts.append(f"KS distance {tested.distance:.3g}")
    if tested is not None:
        parts.append(f"p {tested.p:.2g}")
    return "; ".join(parts)
