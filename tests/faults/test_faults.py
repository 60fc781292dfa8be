"""Every planted fault is caught by the check that names it; clean models are not accused; every check has
both, and a docstring that documents it."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import pytest

from inspector.reporting.checks import Check
from tests.faults import CASES, Case, load

load()
ROOT = Path(__file__).parents[2]
README = runpy.run_path(str(ROOT / "benchmarks" / "readme.py"))
CHECKS: dict[str, tuple[Check, ...]] = {command: README["checks_of"](command) for command in README["ROOMS"]}
EVERY = [pytest.param(c, one, id=f"{c}-{one.name}") for c, checks in CHECKS.items() for one in checks]


def _slow(case: Case) -> bool:
    """Each starts processes; the clean runs, with both versions of torch, show that the checks run there."""
    return case.command == "ddp" and bool(case.check)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{case.command}-{case.name}", marks=[pytest.mark.once] if _slow(case) else [])
        for case in CASES
    ],
)
def test_a_fault_is_caught_by_its_check_and_a_clean_model_by_none(case: Case) -> None:
    failed = case.failed()
    assert case.detected(failed), f"{case.says}: failing are {failed}"


@pytest.mark.parametrize(("command", "check"), EVERY)
def test_every_check_is_documented_and_has_a_fault_and_a_clean_twin(command: str, check: Check) -> None:
    assert re.fullmatch(r"[A-Z(].*\.", check.verifies), "the first paragraph is one sentence or more"
    cases = [case for case in CASES if case.command == command]
    if not check.note:
        assert any(case.check == check.name for case in cases), "no fault is planted for it"
        assert any(check.name in case.twin_of for case in cases), "no clean model is its twin"


def test_every_fault_and_every_clean_model_names_a_check() -> None:
    for case in CASES:
        names = {check.name for check in CHECKS[case.command]}
        assert {case.check, *case.twin_of} <= {*names, ""}


@pytest.mark.parametrize("command", CHECKS)
def test_the_tables_of_the_manual_are_those_of_the_docstrings(command: str) -> None:
    assert README["check_table"](command) in (ROOT / "docs" / "commands" / f"{command}.md").read_text()


def test_the_corpus_is_as_large_as_promised() -> None:
    """Over all verifications: at least 130 faults, and 60 clean models."""
    faults = Counter(case.command for case in CASES if case.check)
    assert faults["freeze"] >= 80
    assert faults["init"] >= 55
    assert faults.total() >= 160
    assert sum(not case.check for case in CASES) >= 60
