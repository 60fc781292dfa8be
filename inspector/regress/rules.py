"""What the user allows: tolerances, budgets, which metrics count, and which states fail."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase

from inspector.core.errors import InspectError

STATES = ("regressed", "missing", "invalid", "incomparable", "noisy", "new", "improved", "ok")
"""Worst first."""
FAILING = ("regressed", "missing", "invalid", "incomparable")
"""Those that fail by default; what is only reported (another GPU, another torch) never does."""
TOLERANCED = 0.05
"""How far a toleranced metric may move, relatively, where the user says nothing."""
EFFECT = 0.05
"""The least slowdown that a noisy metric can regress by."""

_NUMBER = re.compile(
    r"([+-]?\d[\d_]*(?:\.\d+)?(?:e[+-]?\d+)?)\s*(k|M|G|T|P|Ki|Mi|Gi|Ti)?(%|B)?", re.IGNORECASE
)
_SCALE = {
    "": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip


@dataclass(frozen=True)
class Tolerance:
    """An allowed change: a part of BASE's value, or in the metric's own unit."""

    amount: float
    relative: bool

    def allows(self, base: float, head: float) -> bool:
        return abs(head - base) <= (self.amount * abs(base) if self.relative else self.amount)

    def __str__(self) -> str:
        return f"{100 * self.amount:g}%" if self.relative else f"{self.amount:g}"


@dataclass(frozen=True)
class Rules:
    """How two reports are compared; the names are globs of metrics."""

    tolerances: dict[str, Tolerance] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: tuple[str, ...] = FAILING
    effect: float = EFFECT

    def compares(self, metric: str) -> bool:
        """Whether the metric counts at all."""
        wanted = not self.only or any(_selects(glob, metric) for glob in self.only)
        return wanted and not any(_selects(glob, metric) for glob in self.ignore)

    def tolerance(self, metric: str, kind: str) -> Tolerance | None:
        """The last of the user's tolerances that names the metric, else its class's own."""
        named = [tolerance for glob, tolerance in self.tolerances.items() if _selects(glob, metric)]
        if named:
            return named[-1]
        return Tolerance(TOLERANCED, True) if kind == "toleranced" else None

    def budget(self, metric: str) -> float | None:
        """The tightest of the budgets that name the metric."""
        named = [budget for glob, budget in self.budgets.items() if _selects(glob, metric)]
        return min(named) if named else None

    def check_names(self, metrics: Iterable[str]) -> None:
        """Raises InspectError for a glob that no metric of either report has: a budget on a
        misspelt metric would always hold."""
        from difflib import get_close_matches

        names = sorted(set(metrics))
        for option, globs in (
            ("tolerance", self.tolerances), ("max", self.budgets),
            ("only", self.only), ("ignore", self.ignore),
        ):  # fmt: skip
            for glob in globs:
                if not any(_selects(glob, name) for name in names):
                    near = get_close_matches(glob, names, n=3)
                    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
                    raise InspectError(
                        f"`{option}=` {glob!r} names no metric of these reports",
                        f"did you mean {', '.join(near)}?" if near else f"there are: {listed or 'none'}",
                    )


def _selects(glob: str, metric: str) -> bool:
    """A glob matches the whole name or, for `train/8/fp32/latency`, its last part."""
    return fnmatchcase(metric, glob) or fnmatchcase(metric.rpartition("/")[2], glob)


def rules(
    *,
    tolerance: Sequence[str] = (),
    budget: Sequence[str] = (),
    only: Sequence[str] = (),
    ignore: Sequence[str] = (),
    fail_on: Sequence[str] | None = None,
    effect: str | None = None,
) -> Rules:
    """From what the user writes: "macs=1%", "params=26M", ["regressed", "new"], "5%"."""
    return Rules(
        tolerances={name: _tolerance(text) for name, text in _pairs(tolerance, "tolerance", "macs=1%")},
        budgets={name: _budget(text) for name, text in _pairs(budget, "max", "params=26M")},
        only=tuple(only),
        ignore=tuple(ignore),
        fail_on=FAILING if fail_on is None else _states(fail_on),
        effect=EFFECT if effect is None else _effect(effect),
    )


def amount(text: str, option: str) -> tuple[float, bool]:
    """`26M`, `4.1G`, `512MiB`, `25557032` or `1%`: the number (whole where it is), and whether relative."""
    match = _NUMBER.fullmatch(text.strip())
    relative = bool(match and match[3] == "%")
    if match is None or (relative and match[2]):
        raise InspectError(f"cannot read `{option}=` {text!r}", "write 26M, 4.1G, 512MiB, 25557032 or 1%")
    exact = Decimal(match[1].replace("_", "")) * _SCALE[(match[2] or "").lower()]
    if relative:
        return float(exact / 100), True
    return (int(exact) if exact == exact.to_integral_value() else float(exact)), False


def _tolerance(text: str) -> Tolerance:
    size, relative = amount(text, "tolerance")
    if size < 0:
        raise InspectError(f"`tolerance=` {text!r} is negative", "write e.g. macs=1%")
    return Tolerance(size, relative)


def _budget(text: str) -> float:
    size, relative = amount(text, "max")
    if relative:
        raise InspectError(
            f"`max=` {text!r}: a budget is a number, not a percentage",
            'write params=26M, or `tolerance=["params=1%"]`',
        )
    return size


def _effect(text: str) -> float:
    size, relative = amount(text, "effect")
    if not relative or not 0 < size < 1:
        raise InspectError(f"`effect=` {text!r} is not a percentage below 100%", 'write e.g. `effect="5%"`')
    return size


def _states(states: str | Sequence[str]) -> tuple[str, ...]:
    """One text of states separated by commas, or a list of them; "none" is no state."""
    words = states.replace(",", " ").split() if isinstance(states, str) else states
    words = [word for word in words if word != "none"]
    for word in words:
        if word not in STATES:
            raise InspectError(
                f"`fail_on=`: no state is called {word!r}", f"use of: {', '.join(STATES)}, none"
            )
    return tuple(words)


def _pairs(texts: Sequence[str], option: str, example: str) -> Iterable[tuple[str, str]]:
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not value.strip():
            raise InspectError(f"cannot read `{option}=` {text!r}", f'write `{option}=["{example}"]`')
        yield name.strip(), value
