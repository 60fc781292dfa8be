"""Which initialisation a model has: each tensor against the law of a scheme, or against all known laws.

Every tensor gets one status:
    matches        the law is not rejected, and every other known law is
    differs        the law is rejected (auto: every known law is, as for trained weights)
    ambiguous      another named law has the same numbers: xavier and kaiming a=1 when fan_in = fan_out
    inconclusive   too few elements to reject the other known laws, or values that cannot be tested
    constant       all elements are equal, and a random law was expected
    uninitialised  NaN, infinity or unwritten memory, or no values at all (meta)
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from inspector.initialization import laws, parametrized
from inspector.initialization.checks.draws import same_draw
from inspector.initialization.checks.law import Case, diagnose, padding
from inspector.initialization.examine import ALPHA, Evidence, distinct, gather, holm, rivals
from inspector.initialization.known import candidates
from inspector.initialization.laws import Law
from inspector.initialization.schemes import Choice
from inspector.initialization.statistics import Fit
from inspector.initialization.targets import Target
from inspector.reporting.report import Finding


@dataclass(frozen=True)
class Row:
    """The verdict on one tensor. `law` is the expected one, under auto the one found; `labels` are the
    names of all laws that it may have; `looks_like` says what a differing tensor has instead."""

    evidence: Evidence
    status: str
    law: Law | None = None
    fit: Fit | None = None
    labels: tuple[str, ...] = ()
    looks_like: str = ""

    @property
    def target(self) -> Target:
        return self.evidence.target

    def cells(self) -> dict[str, Any]:
        """The row as a table holds it: all the evidence, None for what was not measured."""
        target, sample, law, fit = self.target, self.evidence.sample, self.law, self.fit
        fans = target.fans
        return {
            "tensor": target.name,
            "type": target.type,
            "role": target.role,
            "numel": sample.numel if sample else None,
            "dtype": str(sample.dtype).removeprefix("torch.") if sample else None,
            "fan_in": fans.fan_in if fans else None,
            "fan_out": fans.fan_out if fans else None,
            "effective_fan_in": fans.effective_in if fans else None,
            "effective_fan_out": fans.effective_out if fans else None,
            "law": law.named if law else None,
            "status": self.status,
            "bound": laws.plain(law.bound) if law else None,
            "max": sample.largest if sample else None,
            "expected_std": law.std if law else None,
            "std": sample.rms if sample else None,
            "mean": sample.mean if sample else None,
            "ks": fit.distance if fit else None,
            "ks_p": fit.distance_p if fit else None,
            "p": fit.p if fit else None,
            "looks_like": self.looks_like or self._other_names(),
            "note": self._note(),
        }

    def _other_names(self) -> str:
        return ", ".join(label for label in self.labels if self.law is None or label != self.law.label)

    def _note(self) -> str:
        target = self.target
        tied = f"tied: {', '.join(target.aliases)}" if target.aliases else ""
        notes = (self.evidence.untested, parametrized.note(target.module, target.attribute), tied)
        return "; ".join(note for note in notes if note)


@dataclass
class Outcome:
    """The rows of all tensors that were judged, and what the checks say about them."""

    rows: list[Row] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def count(self, status: str) -> int:
        return sum(row.status == status for row in self.rows)


def expect(targets: list[Target], choice: Choice, alpha: float = ALPHA) -> Outcome:
    """Judge every target that the choice gives a law. A rejected law is a failed finding of the check
    that names the likely mistake (see `checks`)."""
    judged = [(gather(target), law) for target in targets if (law := choice.law(target)) is not None]
    fits = [_fit(evidence, law) for evidence, law in judged]
    tested = [i for i, fit in enumerate(fits) if fit is not None]
    rejected = dict(zip(tested, holm([fits[i].p for i in tested if fits[i] is not None], alpha)))  # type: ignore[union-attr]
    level = alpha / max(len(tested), 1)
    outcome = Outcome()
    for i, (evidence, law) in enumerate(judged):
        row = _row(evidence, law, fits[i], rejected.get(i, False), level)
        findings = diagnose(row.evidence, law, row.fit, row.status, choice)
        outcome.rows.append(_explained(row, findings))
        outcome.findings += findings
    outcome.findings += same_draw([row.evidence for row in outcome.rows if row.law and row.law.random])
    outcome.findings += _fans_differ([row.target for row in outcome.rows], choice)
    outcome.findings += _agreement(outcome, choice)
    return outcome


def _fit(evidence: Evidence, law: Law) -> Fit | None:
    """The test of a random law; None where an exact comparison decides, or nothing can."""
    sample = evidence.sample
    if sample is None or sample.garbage or law.family not in ("uniform", "normal") or evidence.constant:
        return None
    return evidence.tested(law)


def _row(evidence: Evidence, law: Law, fit: Fit | None, rejected: bool, level: float) -> Row:
    sample = evidence.sample
    if sample is None:
        status = "uninitialised" if "meta" in evidence.untested else "inconclusive"
        return Row(evidence, status, law, looks_like=evidence.untested)
    if sample.garbage:
        return Row(evidence, "uninitialised", law)
    if law.random and evidence.constant:
        return Row(evidence, "constant", law, looks_like=laws.constant(sample.low).label)
    if fit is None:
        exact = "matches" if evidence.fits(law, level) else "differs"
        return Row(evidence, exact, law, labels=(law.label,))
    if rejected or evidence.flaw or evidence.padding is not None or evidence.even(fit):
        return Row(evidence, "differs", law, fit)
    twins, others = rivals(evidence, law, level)
    status = "inconclusive" if others else "ambiguous" if twins else "matches"
    labels = (law.label, *(other.label for other in (*twins, *others)))
    return Row(evidence, status, law, fit, labels)


def _explained(row: Row, findings: list[Finding]) -> Row:
    """The row with what its findings say that the tensor looks like."""
    looks = next((str(f.evidence["looks_like"]) for f in findings if f.evidence.get("looks_like")), "")
    return row if row.looks_like or not looks else replace(row, looks_like=looks)


def _fans_differ(targets: list[Target], choice: Choice) -> list[Finding]:
    """Layers where torch's fan, which the scheme uses, is not the number of inputs or outputs."""
    used = [(t, pair) for t in targets if t.role == "weight" and (pair := _fan_pair(t, choice)) is not None]
    if not used:
        return []
    shown = "; ".join(f"{t.layer}: {pair}" for t, pair in used[:3])
    more = f"; and {len(used) - 3} more" if len(used) > 3 else ""
    message = f"torch's fan is not the effective one (groups, transposition): {shown}{more}"
    return [Finding("fan", "warn", used[0][0].layer, message, {t.layer: pair for t, pair in used})]


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


def _agreement(outcome: Outcome, choice: Choice) -> list[Finding]:
    if any(f.status == "fail" for f in outcome.findings) or not outcome.rows:
        return []
    weak = outcome.count("inconclusive") + outcome.count("ambiguous")
    more = f"; {weak} would also fit another law" if weak else ""
    rows = len(outcome.rows)
    none = f"none of {rows} tensors contradicts" if rows > 1 else "the one tensor does not contradict"
    message = f"{none} {choice.text}{more}"
    return [Finding("law", "pass", "", message)]


def auto(targets: list[Target], alpha: float = ALPHA) -> Outcome:
    """Find the known laws that fit each target. Only what was never initialised fails: trained weights fit
    no law, and that is no fault."""
    gathered = [gather(target) for target in targets]
    level = alpha / max(sum(e.sample is not None and not e.sample.is_constant for e in gathered), 1)
    outcome = Outcome([_identified(evidence, level) for evidence in gathered])
    for row in outcome.rows:
        if row.status == "uninitialised":
            outcome.findings += diagnose(row.evidence, row.law, None, row.status, None)
    outcome.findings += [replace(f, status="warn") for f in _never_independent(outcome.rows)]
    unknown = [row.target.name for row in outcome.rows if row.status == "differs"]
    if unknown:
        message = (
            f"{len(unknown)} of {len(outcome.rows)} tensors fit no known initialisation: they were trained, "
            f"or drawn in another way (first: {unknown[0]})"
        )
        outcome.findings.append(Finding("law", "skip", unknown[0], message, {"tensors": unknown}))
    return outcome


def _never_independent(rows: list[Row]) -> list[Finding]:
    """Under auto these warn: copies of trained layers are as good as trained layers."""
    random = [row.evidence for row in rows if row.law is not None and row.law.random]
    padded = [row for row in rows if row.evidence.padding is not None]
    findings = [f for row in padded for f in padding(Case(row.evidence, None, None, None))]
    return [f for f in (*same_draw(random), *findings) if f.status == "fail"]


def _identified(evidence: Evidence, level: float) -> Row:
    sample = evidence.sample
    if sample is None:
        status = "uninitialised" if "meta" in evidence.untested else "inconclusive"
        return Row(evidence, status, looks_like=evidence.untested)
    if sample.garbage and (not sample.finite or sample.largest >= 1e15):
        return Row(evidence, "uninitialised")
    if evidence.constant or (sample.is_constant and sample.low in (0.0, 1.0)):
        law = laws.constant(sample.low)
        return Row(evidence, "matches" if sample.low in (0.0, 1.0) else "constant", law, labels=(law.label,))
    if evidence.orthogonal_gain is not None:
        law = laws.orthogonal(evidence.orthogonal_gain, tuple(evidence.values.shape))
        return Row(evidence, "matches", law, labels=(law.label,))
    fitting = distinct([law for law in candidates(evidence.target) if evidence.fits(law, level)])
    return _named(evidence, fitting)


def _named(evidence: Evidence, fitting: list[Law]) -> Row:
    if not fitting:
        return Row(evidence, "differs")
    best = max(fitting, key=lambda law: evidence.tested(law).p)
    labels = tuple(law.label for law in fitting)
    one_law = all(law.same(best) for law in fitting)
    status = "inconclusive" if not one_law else "matches" if len(fitting) == 1 else "ambiguous"
    if evidence.flaw:
        return Row(evidence, "differs", looks_like=f"{best.label}, but {evidence.flaw}")
    first = next(law for law in fitting if law.same(best))
    return Row(evidence, status, first, evidence.tested(first), labels)
