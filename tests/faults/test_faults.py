"""Every planted fault is caught by the check that names it; clean models are not accused."""

from __future__ import annotations

import pytest

from . import CASES, Case, load

load()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command}-{case.name}")
def test_a_fault_is_caught_by_its_check_and_a_clean_model_by_none(case: Case) -> None:
    failed = case.failed()
    assert case.detected(failed), f"{case.says}: failing are {failed}"


def test_the_corpus_is_as_large_as_promised() -> None:
    counts = {
        command: sum(c.command == command and bool(c.check) for c in CASES) for command in ("freeze", "init")
    }
    assert counts["freeze"] >= 20
    assert counts["init"] >= 12
