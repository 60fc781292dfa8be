"""The fault corpus: small named mutants, each of which one check must catch, and clean models on which
every check must stay silent. `python -m tests.faults` prints the detection matrix.

A fault is a function that plants one mistake and returns the findings of the verification; its
docstring says the mistake, its decorator which check must fail.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

from inspector.reporting.report import Finding

Run = Callable[[], list[Finding]]


@dataclass(frozen=True)
class Case:
    """One planted fault (`check` names the check that must fail) or one clean model (`check` empty)."""

    command: str
    name: str
    check: str
    says: str
    run: Run

    def failed(self) -> list[str]:
        """The names of the checks that fail, without repetition."""
        return list(dict.fromkeys(f.check for f in self.run() if f.status == "fail"))

    def detected(self, failed: list[str]) -> bool:
        """Whether the verification did right: the named check failed, or nothing did on a clean model."""
        return self.check in failed if self.check else not failed


CASES: list[Case] = []


def fault(command: str, check: str) -> Callable[[Run], Run]:
    """Register a planted fault that `check` of `command` must catch."""

    def register(run: Run) -> Run:
        CASES.append(Case(command, run.__name__, check, _sentence(run), run))
        return run

    return register


def clean(command: str) -> Callable[[Run], Run]:
    """Register a model on which no check of `command` may fail."""
    return fault(command, "")


def _sentence(run: Run) -> str:
    return " ".join((run.__doc__ or "").split())


def load() -> None:
    """Import every file of faults."""
    for entry in pkgutil.walk_packages(__path__, f"{__name__}."):
        if not entry.name.rpartition(".")[2].startswith(("test_", "__")):
            importlib.import_module(entry.name)
