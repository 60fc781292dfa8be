"""The fault corpus: small named mutants, each of which one check must catch, and clean models on which
every check must stay silent. `python -m tests.faults` prints the detection matrix.

A fault is a function that plants one mistake and returns the findings of the verification; its
docstring says the mistake, its decorator which check must fail. The decorator of a clean model names the
checks whose clean twin it is: those it must pass, not merely skip.
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
    """One planted fault (`check` names the check that must fail) or one clean model (`check` empty), the
    clean twin of the checks `twin_of`."""

    command: str
    name: str
    check: str
    says: str
    run: Run
    twin_of: tuple[str, ...] = ()

    def failed(self) -> list[str]:
        """The names of the checks that fail, without repetition; of a clean model also those that it is the
        twin of and that were skipped."""
        findings = self.run()
        skipped = [f for f in findings if f.status == "skip" and f.check in self.twin_of]
        return list(dict.fromkeys(f.check for f in findings if f.status == "fail" or f in skipped))

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


def clean(command: str, *twin_of: str) -> Callable[[Run], Run]:
    """Register a model on which no check of `command` may fail, and which those of `twin_of` must judge."""

    def register(run: Run) -> Run:
        CASES.append(Case(command, run.__name__, "", _sentence(run), run, twin_of))
        return run

    return register


def _sentence(run: Run) -> str:
    return " ".join((run.__doc__ or "").split())


def load() -> None:
    """Import every file of faults."""
    for entry in pkgutil.walk_packages(__path__, f"{__name__}."):
        if not entry.name.rpartition(".")[2].startswith(("test_", "__")):
            importlib.import_module(entry.name)
