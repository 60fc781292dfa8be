"""Why a tensor does not have its law: one function a mistake, asked in order from certain to vague.

uninitialised  NaN, infinity, unwritten memory
constant       all elements are equal where a random law was expected
bias           a bias is not as its rule says
copies         rows (output channels) repeat other rows
dtype          the values were rounded through a narrower dtype
coverage       the tensor still has the default law of its layer's class: its layer was skipped
fan            the scheme with another fan: fan_out for fan_in, or the effective fan
gain           the right shape with another scale: another a, a missing gain, a depth factor
law            another distribution
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from inspector.initialization import known, statistics
from inspector.initialization.examine import Evidence, numbers
from inspector.initialization.known import candidates
from inspector.initialization.laws import Law
from inspector.initialization.schemes import Choice, default_law
from inspector.initialization.statistics import Fit
from inspector.initialization.targets import Target
from inspector.reporting.report import Finding

PLAUSIBLE = 1e-4
"""A law that explains a rejected tensor must itself have at least this p-value."""


class Case:
    """A tensor that does not have its law, as the checks see it."""

    def __init__(self, evidence: Evidence, law: Law | None, fit: Fit | None, choice: Choice | None) -> None:
        self.evidence = evidence
        self.law = law
        self.fit = fit
        self.choice = choice

    @property
    def target(self) -> Target:
        return self.evidence.target

    def fits(self, law: Law) -> bool:
        return self.evidence.fits(law, PLAUSIBLE)

    def finding(self, check: str, cause: str, status: str = "fail", looks_like: str = "") -> Finding:
        """Expected and measured numbers behind the cause."""
        law, sample = self.law, self.evidence.sample
        measured: dict[str, Any] = {"looks_like": looks_like}
        if sample is not None:
            measured |= {"numel": sample.numel, "max": sample.largest, "std": sample.rms}
        if law is not None:
            measured |= {"expected": law.named, "expected_std": law.std}
        if self.fit is not None:
            measured |= {"p": self.fit.p, "ks": self.fit.distance}
        said = f"expected {law.named}; {cause}" if law is not None else cause
        if law is not None and sample is not None and check != "uninitialised":
            said = f"{said}; {numbers(self.evidence, law, self.fit)}"
        return Finding(check, status, self.target.name, said, measured)


def diagnose(
    evidence: Evidence,
    law: Law | None,
    fit: Fit | None,
    status: str,
    choice: Choice | None,
    level: float,
) -> list[Finding]:
    """The findings on one tensor: none when it is right, else the first mistake that explains it."""
    case = Case(evidence, law, fit, choice)
    if status in ("differs", "constant", "uninitialised"):
        return [next(found for check in CHECKS if (found := check(case)) is not None)]
    if evidence.untested:
        return [Finding("law", "skip", evidence.target.name, f"not tested: {evidence.untested}")]
    return _rounded_yet_right(case)


def _rounded_yet_right(case: Case) -> list[Finding]:
    evidence = case.evidence
    if case.law is None or not case.law.random or evidence.sample is None:
        return []
    if evidence.precision is evidence.sample.dtype or evidence.sample.numel < 64:
        return []
    return [case.finding("dtype", f"all values fit into {_short(evidence.precision)}: rounded once", "warn")]


def uninitialised(case: Case) -> Finding | None:
    sample = case.evidence.sample
    if sample is None:
        return case.finding("uninitialised", case.evidence.untested)
    if not sample.garbage:
        return None
    if not sample.finite:
        return case.finding("uninitialised", "holds NaN or infinity: never written, or trained to overflow")
    said = f"max|w| {sample.largest:.3g}, {100 * sample.denormal:.0f}% below the smallest normal number"
    return case.finding("uninitialised", f"{said}: memory of torch.empty that nothing wrote")


def bias(case: Case) -> Finding | None:
    if case.target.role not in ("bias", "norm bias"):
        return None
    looks = _known_name(case)
    cause = f"looks like {looks}" if looks else "it is not as the bias rule says"
    return case.finding("bias", f"{cause}: was it left out?", looks_like=looks)


def constant(case: Case) -> Finding | None:
    law, sample = case.law, case.evidence.sample
    if law is None or sample is None or not (law.random and case.evidence.constant):
        return None
    return case.finding("constant", f"all {sample.numel} elements are {sample.low:.4g}")


def copies(case: Case) -> Finding | None:
    law = case.law
    if law is None or not law.random or not case.evidence.copies:
        return None
    rows = case.evidence.values.detach().flatten(1)
    empty = len(rows) - int(rows.any(1).sum())
    said = f"{case.evidence.copies} of {len(rows)} rows repeat another row"
    return case.finding("copies", f"{said}; {empty} rows are zero" if empty else said)


def dtype(case: Case) -> Finding | None:
    evidence, law = case.evidence, case.law
    assert evidence.sample is not None
    if law is None or not law.random or evidence.precision is evidence.sample.dtype:
        return None
    if not evidence.rounded().fits(law, PLAUSIBLE):
        return None
    narrow = _short(evidence.precision)
    return case.finding("dtype", f"right but for rounding: the values passed through {narrow}")


def coverage(case: Case) -> Finding | None:
    default = default_law(case.target)
    if case.law is None or default is None or default.same(case.law) or not case.fits(default):
        return None
    said = f"looks like {default.named}, its layer's default: was the layer skipped?"
    return case.finding("coverage", said, looks_like=default.label)


def fan(case: Case) -> Finding | None:
    if case.choice is None or case.law is None or case.target.role != "weight":
        return None
    for law in known.other_fans(case.target, case.choice):
        if not law.same(case.law) and case.fits(law):
            return case.finding("fan", f"looks like {law.named}", looks_like=law.label)
    return None


def gain(case: Case) -> Finding | None:
    sample, law = case.evidence.sample, case.law
    if case.choice is None or law is None or sample is None or case.target.role == "bias":
        return None
    for other in known.other_gains(case.target, case.choice, law):
        if case.fits(other):
            return case.finding("gain", f"looks like {other.named}", looks_like=other.label)
    if law.family == "orthogonal":
        found = case.evidence.orthogonal_gain
        return None if found is None else case.finding("gain", f"orthogonal, with gain {found:.4g}")
    if _other_law(case) is not None or not law.random:
        return None
    return _scaled(case, law, sample)


def _scaled(case: Case, law: Law, sample: statistics.Sample) -> Finding | None:
    """The right shape at another scale. The scale is fitted, which makes the p-value generous."""
    fitted = known.rescaled(law, sample.rms)
    if law.family == "uniform":
        fitted = Law("uniform", sample.largest * (1 + 1 / sample.numel))
    _, p = statistics.kolmogorov_smirnov(sample, fitted)
    if p < 0.01 or not math.isclose(fitted.std, sample.rms, rel_tol=0.05 + 3 / math.sqrt(sample.numel)):
        return None
    ratio = sample.rms / law.std
    said = f"the right shape scaled by {ratio:.4g}{_depth(ratio)}"
    return case.finding("gain", said, looks_like=f"scaled by {ratio:.4g}")


def _depth(ratio: float) -> str:
    """Residual branches are scaled by 1/sqrt(2 depth): GPT-2."""
    depth = round(0.5 / ratio**2) if ratio < 0.75 else 0
    close = depth and math.isclose(ratio, 1 / math.sqrt(2 * depth), rel_tol=0.005)
    return f" (1/sqrt(2 x {depth}))" if close else ""


def law(case: Case) -> Finding | None:
    looks = _known_name(case)
    cause = f"looks like {looks}" if looks else "no known law fits"
    if not looks and case.fit is not None:
        cause += f" (rejected by {_TESTS[case.fit.why]})"
    return case.finding("law", cause, looks_like=looks)


_TESTS = {
    "largest": "its largest element",
    "std": "its standard deviation",
    "mean": "its mean",
    "ks": "the Kolmogorov-Smirnov test",
    "law": "a law without spread",
}

CHECKS: tuple[Callable[[Case], Finding | None], ...] = (
    uninitialised, bias, constant, copies, dtype, coverage, fan, gain, law,
)  # fmt: skip


def _other_law(case: Case) -> Law | None:
    """The known law that fits best, if one fits."""
    fitting = [law for law in candidates(case.target) if case.fits(law)]
    return max(fitting, key=lambda law: case.evidence.tested(law).p, default=None)


def _known_name(case: Case) -> str:
    sample = case.evidence.sample
    if sample is not None and sample.is_constant:
        return f"constant {sample.low:.4g}"
    found = _other_law(case)
    if found is not None:
        return found.label
    gain = case.evidence.orthogonal_gain if sample is not None else None
    return f"orthogonal gain={gain:.4g}" if gain is not None else ""


def fans_differ(targets: list[Target], choice: Choice) -> list[Finding]:
    """Layers where torch's fan, which the scheme uses, is not the number of inputs or outputs."""
    used = [(t, pair) for t in targets if t.role == "weight" and (pair := _fan_pair(t, choice)) is not None]
    if not used:
        return []
    shown = "; ".join(f"{t.layer}: {said}" for t, said in used[:3])
    more = f"; and {len(used) - 3} more" if len(used) > 3 else ""
    message = f"torch's fan is not the effective one (groups, transposition): {shown}{more}"
    return [Finding("fan", "warn", used[0][0].layer, message, {t.layer: said for t, said in used})]


def _fan_pair(target: Target, choice: Choice) -> str | None:
    fans, name = target.fans, choice.scheme.name
    if fans is None or not name.startswith(("kaiming", "xavier", "c2_")):
        return None
    out = choice.options.get("mode") == "fan_out" or name == "c2_msra_fill"
    both = name.startswith("xavier")
    parts = []
    if (both or not out) and fans.fan_in != fans.effective_in:
        parts.append(f"fan_in {fans.fan_in}, effective {fans.effective_in:.4g}")
    if (both or out) and fans.fan_out != fans.effective_out:
        parts.append(f"fan_out {fans.fan_out}, effective {fans.effective_out:.4g}")
    return ", ".join(parts) or None


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
