"""Why a tensor does not have its law: one check a mistake, tried in order from certain to vague. The first
that explains the tensor is the finding."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from inspector.initialization import known, statistics
from inspector.initialization.examine import Evidence, numbers
from inspector.initialization.known import candidates
from inspector.initialization.laws import Law
from inspector.initialization.schemes import Choice, default_law
from inspector.initialization.statistics import Fit
from inspector.initialization.targets import Target
from inspector.reporting.checks import check, checks_in, failed
from inspector.reporting.report import Finding

PLAUSIBLE = 1e-4
"""A law that explains a rejected tensor must itself have at least this p-value."""


@dataclass(frozen=True)
class Case:
    """A tensor that does not have its law."""

    evidence: Evidence
    law: Law | None
    fit: Fit | None
    choice: Choice | None

    @property
    def target(self) -> Target:
        return self.evidence.target

    def fits(self, law: Law) -> bool:
        return self.evidence.fits(law, PLAUSIBLE)

    def failed(self, cause: str, looks_like: str = "", *, compared: bool = True) -> list[Finding]:
        """A finding with the cause, and what was expected and measured behind it."""
        law, sample = self.law, self.evidence.sample
        measured: dict[str, Any] = {"looks_like": looks_like}
        if sample is not None:
            measured |= {"numel": sample.numel, "max": sample.largest, "std": sample.rms}
        if law is not None:
            measured |= {"expected": law.named, "expected_std": law.std}
        if self.fit is not None:
            measured |= {"p": self.fit.p, "ks": self.fit.distance}
        message = f"expected {law.named}; {cause}" if law is not None else cause
        if law is not None and sample is not None and compared:
            message = f"{message}; {numbers(self.evidence, law, self.fit)}"
        return [failed(message, self.target.name, **measured)]


@check
def uninitialised(case: Case) -> list[Finding]:
    """No tensor holds NaN, infinity or unwritten memory."""
    sample = case.evidence.sample
    if sample is None:
        return case.failed(case.evidence.untested)
    if not sample.garbage:
        return []
    if not sample.finite:
        return case.failed("holds NaN or infinity: never written, or trained to overflow", compared=False)
    values = f"max|w| {sample.largest:.3g}, {100 * sample.denormal:.0f}% below the smallest normal number"
    return case.failed(f"{values}: memory of torch.empty that was never written", compared=False)


@check
def bias(case: Case) -> list[Finding]:
    """A bias has the values that `--bias` asks for."""
    if case.target.role not in ("bias", "norm bias"):
        return []
    looks = _resembled(case)
    cause = f"looks like {looks}" if looks else "it does not follow the bias rule"
    return case.failed(f"{cause}: was it left out?", looks)


@check
def constant(case: Case) -> list[Finding]:
    """A tensor that should be random is not constant."""
    law, sample = case.law, case.evidence.sample
    if law is None or sample is None or not (law.random and case.evidence.constant):
        return []
    return case.failed(f"all {sample.numel} elements are {sample.low:.4g}")


@check
def padding(case: Case) -> list[Finding]:
    """An embedding's padding row is zero: nothing ever trains it."""
    index = case.evidence.padding
    if index is None or case.target.aliases:
        return []
    cause = f"row {index}, the padding (padding_idx), is not zero: it was overwritten, and gets no gradient"
    return case.failed(cause, compared=False)


@check
def copies(case: Case) -> list[Finding]:
    """The elements of a tensor that should be random are independent: no slice (output or input channel)
    repeats another, negated or in another order neither; nothing is sorted, smooth,
    of low rank, or evenly spaced."""
    law = case.law
    if law is None or law.family not in ("uniform", "normal"):
        return []
    if case.evidence.even(case.fit):
        return case.failed("the values follow the law too closely for random ones: linspace, shuffled?")
    if case.evidence.structure and not case.evidence.copies:
        return case.failed(case.evidence.structure, compared=False)
    if not case.evidence.copies:
        return []
    rows = case.evidence.values.detach().flatten(1)
    empty = len(rows) - int(rows.any(1).sum())
    cause = f"{case.evidence.copies} of {len(rows)} rows repeat another row"
    return case.failed(f"{cause}; {empty} rows are zero" if empty else cause)


@check
def atoms(case: Case) -> list[Finding]:
    """No value takes a share of the elements that a continuous law does not give it: no zeros of a mask, no
    clamped tails, no levels of a quantised weight."""
    if case.law is None or case.law.family not in ("uniform", "normal") or not case.evidence.atoms:
        return []
    return case.failed(case.evidence.atoms, compared=False)


@check
def spread(case: Case) -> list[Finding]:
    """All channels of a random tensor have the same spread: none was drawn by a law of its own, and none
    normalised."""
    if case.law is None or case.law.family not in ("uniform", "normal") or not case.evidence.spread:
        return []
    return case.failed(case.evidence.spread)


@check
def outliers(case: Case) -> list[Finding]:
    """No few elements lie far outside the law that all others have."""
    law, sample = case.law, case.evidence.sample
    if law is None or sample is None or law.family not in ("uniform", "normal") or sample.numel < 16:
        return []
    values = case.evidence.values.detach().flatten()
    slack = 1 + 2 * statistics.grain(sample).rounding
    limit = law.bound * slack if math.isfinite(law.bound) else _beyond(law, sample.numel)
    outside = values.abs().double() > limit + statistics.grain(sample).smallest
    count = int(outside.sum())
    if not 0 < count <= max(1, sample.numel // 100):
        return []
    if statistics.fit(statistics.measure(values[~outside]), law).p < PLAUSIBLE:
        return []
    where = [int(i) for i in np.unravel_index(int(outside.nonzero()[0]), case.evidence.values.shape)]
    of = "element lies" if count == 1 else "elements lie"
    cause = f"{count} {of} outside +-{limit:.4g}, and all others have the law; the first is at {where}"
    return case.failed(cause)


def _beyond(law: Law, numel: int) -> float:
    """What no element of a normal law of so many exceeds, but once in a million tensors."""
    from scipy.special import ndtri

    return float(-ndtri(0.5e-6 / numel)) * law.scale


@check
def dtype(case: Case) -> list[Finding]:
    """The values were not rounded through a narrower dtype.

    A tensor that was, and that still has its law, warns.
    """
    evidence, law = case.evidence, case.law
    assert evidence.sample is not None
    if law is None or not law.random or evidence.precision is evidence.sample.dtype:
        return []
    if not evidence.rounded().fits(law, PLAUSIBLE):
        return []
    return case.failed(f"right but for rounding: the values passed through {_short(evidence.precision)}")


@check
def coverage(case: Case) -> list[Finding]:
    """No layer was skipped: no tensor still has the default distribution of its layer's class."""
    default = default_law(case.target)
    if case.law is None or default is None or default.same(case.law) or not case.fits(default):
        return []
    cause = f"looks like {default.named}, its layer's default: was the layer skipped?"
    return case.failed(cause, default.label)


@check
def fan(case: Case) -> list[Finding]:
    """The scheme used the right fan: not fan_out for fan_in, nor the effective fan of a grouped or transposed
    convolution where torch's is meant."""
    if case.choice is None or case.law is None or case.target.role != "weight":
        return []
    for law in known.other_fans(case.target, case.choice):
        if not law.same(case.law) and case.fits(law):
            return case.failed(f"looks like {law.named}", law.label)
    return []


@check
def gain(case: Case) -> list[Finding]:
    """The values have the right scale: not that of another `a` or gain, nor one that depends on the depth."""
    sample, law = case.evidence.sample, case.law
    if case.choice is None or law is None or sample is None or case.target.role == "bias":
        return []
    for other in known.other_gains(case.target, case.choice, law):
        if case.fits(other):
            return case.failed(f"looks like {other.named}", other.label)
    if law.family == "orthogonal":
        measured = case.evidence.orthogonal_gain
        return [] if measured is None else case.failed(f"orthogonal, with gain {measured:.4g}")
    if _other_law(case) is not None or not law.random:
        return []
    return _scaled(case, law, sample)


def _scaled(case: Case, law: Law, sample: statistics.Sample) -> list[Finding]:
    """The right shape at another scale. The scale is fitted, which makes the p-value generous."""
    fitted = known.rescaled(law, sample.rms)
    if law.family == "uniform":
        fitted = Law("uniform", sample.largest * (1 + 1 / sample.numel))
    _, p = statistics.kolmogorov_smirnov(sample, fitted)
    if p < 0.01 or not math.isclose(fitted.std, sample.rms, rel_tol=0.05 + 3 / math.sqrt(sample.numel)):
        return []
    ratio = sample.rms / law.std
    cause = f"the right shape scaled by {ratio:.4g}{_depth(ratio)}"
    return case.failed(cause, f"scaled by {ratio:.4g}")


def _depth(ratio: float) -> str:
    """Residual branches are scaled by 1/sqrt(2 depth): GPT-2."""
    depth = round(0.5 / ratio**2) if ratio < 0.75 else 0
    close = depth and math.isclose(ratio, 1 / math.sqrt(2 * depth), rel_tol=0.005)
    return f" (1/sqrt(2 x {depth}))" if close else ""


@check
def law(case: Case) -> list[Finding]:
    """Every tensor comes from the distribution that its scheme gives it.

    Largest element, standard deviation, mean and Kolmogorov-Smirnov, at a family-wise error below 1% over
    the model (Holm), with the rounding of the dtype allowed for.
    """
    looks = _resembled(case)
    cause = f"looks like {looks}" if looks else "no known law fits"
    if not looks and case.fit is not None:
        cause += f" (rejected by {_TESTS[case.fit.why]})"
    return case.failed(cause, looks)


_TESTS = {
    "largest": "its largest element",
    "std": "its standard deviation",
    "mean": "its mean",
    "ks": "the Kolmogorov-Smirnov test",
    "law": "a law without spread",
}


def diagnose(
    evidence: Evidence, law: Law | None, fit: Fit | None, status: str, choice: Choice | None
) -> list[Finding]:
    """The findings on one tensor: none when it is right, else the first mistake that explains it."""
    case = Case(evidence, law, fit, choice)
    if status in ("differs", "constant", "uninitialised"):
        return next(findings for one in CHECKS if (findings := one(case)))
    if evidence.untested:
        return [Finding("law", "skip", evidence.target.name, f"not tested: {evidence.untested}")]
    return _rounded_yet_right(case)


def _rounded_yet_right(case: Case) -> list[Finding]:
    evidence = case.evidence
    if case.law is None or not case.law.random or evidence.sample is None:
        return []
    if evidence.precision is evidence.sample.dtype or evidence.sample.numel < 64:
        return []
    (finding,) = case.failed(f"all values fit into {_short(evidence.precision)}: rounded once")
    return [replace(finding, check="dtype", status="warn")]


def _other_law(case: Case) -> Law | None:
    """The known law that fits best, if one fits."""
    fitting = [law for law in candidates(case.target) if case.fits(law)]
    return max(fitting, key=lambda law: case.evidence.tested(law).p, default=None)


def _resembled(case: Case) -> str:
    sample = case.evidence.sample
    if sample is not None and sample.is_constant:
        return f"constant {sample.low:.4g}"
    other = _other_law(case)
    if other is not None:
        return other.label
    gain = case.evidence.orthogonal_gain if sample is not None else None
    return f"orthogonal gain={gain:.4g}" if gain is not None else ""


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


CHECKS = checks_in(sys.modules[__name__])
