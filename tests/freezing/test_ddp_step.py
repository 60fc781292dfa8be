"""The two-process step: what its ranks report becomes a finding, and it always ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from inspector.freezing import ddp, plan
from inspector.freezing.checks import Case
from inspector.freezing.checks import script as checks
from inspector.freezing.ddp import Parallel
from inspector.freezing.evidence import Evidence
from inspector.freezing.plan import Plan
from inspector.freezing.probe import Probes
from inspector.reporting.report import Finding


def result(**more: Any) -> dict[str, Any]:
    plain = {"stage": "train", "error": "", "unsynchronised": [], "diverged": [], "frozen_moved": []}
    return {**plain, **more}


def judged(claim: Plan, seen: Parallel) -> Finding:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    (finding,) = checks.ddp(Case(model, claim, Evidence(Probes(claim, (), {}, 0)), parallel=seen))
    return finding


@pytest.fixture
def claim() -> Plan:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    return plan(model)


@pytest.mark.parametrize(
    ("ranks", "status", "words"),
    [
        ([result(), result()], "pass", "agree on both"),
        ([result(error="boom"), result()], "fail", "raises on rank 0: boom"),
        ([result(), result(error="boom")], "fail", "raises on rank 1"),
        ([result(stage="start", error="no port"), result()], "skip", "could not start"),
        ([result(unsynchronised=["1.weight"]), result()], "fail", "gradient differs"),
        ([result(diverged=["1.weight"]), result()], "fail", "differs between the ranks after"),
        ([result(frozen_moved=["0.weight"]), result()], "fail", "frozen, but moved"),
    ],
)
def test_what_the_ranks_saw(claim: Plan, ranks: list[dict[str, Any]], status: str, words: str) -> None:
    finding = judged(claim, Parallel(ranks))
    assert finding.status == status
    assert words in finding.message


def test_a_deadlock_ends_in_a_finding(claim: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ddp, "DEADLINE", 0.05)  # no process imports torch so fast
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with ddp.TwoProcesses(model, claim, (torch.ones(2, 2),), {}, 0) as processes:
        finding = judged(claim, processes.wait())
        running = processes.processes
    assert "deadlock" in finding.message
    assert all(process.code is not None for process in running)
    assert not processes.folder.exists()


def test_what_cannot_be_pickled_is_skipped_with_its_reason(claim: Plan) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model.hook = lambda x: x
    with ddp.TwoProcesses(model, claim, (torch.ones(2, 2),), {}, 0) as processes:
        finding = judged(claim, processes.wait())
    assert finding.status == "skip"
    assert "cannot be pickled" in finding.message


@pytest.mark.parametrize(("processors", "threads"), [(2, 1), (4, 2), (64, 3)])
def test_this_process_leaves_the_ranks_their_processors(
    claim: Plan, monkeypatch: pytest.MonkeyPatch, processors: int, threads: int
) -> None:
    monkeypatch.setattr(ddp, "cores", lambda: processors)
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with ddp.TwoProcesses(model, claim, (torch.ones(2, 2),), {}, 0):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
