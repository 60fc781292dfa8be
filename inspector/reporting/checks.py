"""A check: one function that reads evidence and returns findings.

    @check
    def ties(case: Case) -> Iterable[Finding]:
        "What it verifies, in one line for users. Further lines: how it is measured, and its limits."
        yield failed("shares its memory with fc.weight", "conv1.weight", trainable="fc.weight")

Its name is the `check` field of its findings, its docstring its documentation: the check tables of the
manual are made from the first paragraphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import update_wrapper
from types import ModuleType
from typing import Any, Generic, TypeVar

from inspector.reporting.report import Finding

Evidence = TypeVar("Evidence")


class Check(Generic[Evidence]):
    """Calls its function and puts its name on the findings. A `note` never fails: it states a fact
    that a reader must know."""

    def __init__(self, function: Callable[[Evidence], Iterable[Finding]], note: bool = False) -> None:
        update_wrapper(self, function)
        self.name = function.__name__
        self.function, self.note = function, note

    def __call__(self, evidence: Evidence) -> list[Finding]:
        return [replace(finding, check=self.name) for finding in self.function(evidence)]

    @property
    def verifies(self) -> str:
        """The first paragraph of the docstring, in one line."""
        return " ".join((self.function.__doc__ or "").strip().partition("\n\n")[0].split())


def check(function: Callable[[Evidence], Iterable[Finding]]) -> Check[Evidence]:
    """Make a function a check."""
    return Check(function)


def note(function: Callable[[Evidence], Iterable[Finding]]) -> Check[Evidence]:
    """Make a function a check that never fails."""
    return Check(function, note=True)


def checks_in(*modules: ModuleType) -> tuple[Check[Any], ...]:
    """The checks that these modules define, in their order of definition."""
    return tuple(
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, Check) and value.function.__module__ == module.__name__
    )


def examine(checks: Iterable[Check[Evidence]], evidence: Evidence) -> list[Finding]:
    """The findings of every check."""
    return [finding for one in checks for finding in one(evidence)]


def passed(message: str, subject: str = "", /, **evidence: Any) -> Finding:
    """A finding that passes; its check puts its name on it."""
    return Finding("", "pass", subject, message, evidence)


def failed(message: str, subject: str = "", /, **evidence: Any) -> Finding:
    """A finding that fails."""
    return Finding("", "fail", subject, message, evidence)


def warned(message: str, subject: str = "", /, **evidence: Any) -> Finding:
    """A finding that does not fail, and that a reader must know."""
    return Finding("", "warn", subject, message, evidence)


def skipped(message: str, subject: str = "", /, **evidence: Any) -> Finding:
    """A finding that says what was not verified, and why."""
    return Finding("", "skip", subject, message, evidence)


def listed(
    make: Callable[..., Finding], names: Sequence[str], message: str, /, **evidence: Any
) -> Iterator[Finding]:
    """One finding about many names: the first is its subject, all are evidence. None without names."""
    if names:
        yield make(message, names[0], names=list(names), **evidence)
