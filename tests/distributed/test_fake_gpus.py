"""`inspect ddp` on several GPUs, end to end: gloo between real processes, each of which sees as many fake
cards as there are ranks and writes down what it asked of them."""

from __future__ import annotations

import atexit
import json
import os
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

import inspector
from inspector.core.errors import InspectError
from inspector.distributed.job import Job, Place
from inspector.distributed.loop import Trainer
from inspector.reporting.report import Report
from tests.distributed.local import train
from tests.fake_gpu import FakeGpu

pytestmark = pytest.mark.once
KEPT = "INSPECTOR_TEST_KEPT"
"""The variable that tells a process where to write what it asked."""


class Recording(FakeGpu):
    """Cards with random states, whose process notes when it joins its group and what DDP is told."""

    def patches(self) -> list[Any]:
        import torch.distributed as dist

        from inspector.distributed import parts

        join, wrap = dist.init_process_group, parts.DistributedDataParallel

        def joined(backend: str, **options: Any) -> None:
            self.asked.append(("join", self.current))
            join(backend, **options)

        def wrapped(model: Any, device_ids: Any = None, **options: Any) -> Any:
            self.asked.append(("ddp", device_ids))
            return wrap(model, **options)

        def state(device: Any = None) -> torch.Tensor:
            self.asked.append(("random state", self._number(device)))
            return torch.zeros(16, dtype=torch.uint8)

        def put_back(values: torch.Tensor, device: Any = None) -> None:
            self.asked.append(("random state", self._number(device)))

        cuda = {
            "is_initialized": lambda: True, "get_rng_state": state, "set_rng_state": put_back,
            "get_rng_state_all": list, "set_rng_state_all": list,  # kept on the host, no card is asked
        }  # fmt: skip
        return [
            *super().patches(),
            *(mock.patch.object(torch.cuda, name, value) for name, value in cuda.items()),
            mock.patch.object(torch.Tensor, "pin_memory", lambda tensor, device=None: tensor),
            mock.patch.object(dist, "init_process_group", joined),
            mock.patch.object(parts, "DistributedDataParallel", wrapped),
        ]


def written(gpu: FakeGpu, kept: Path, rank: int) -> None:
    (kept / f"asked{rank}.json").write_text(json.dumps({"asked": gpu.asked, "most": gpu.most}))


def on_fake_cards(folder: Path, rank: int, world: int, kept: Path) -> None:
    """Run a rank on its fake cards; what it asked of them is in `kept`."""
    from inspector.distributed.rank import run

    gpu = Recording(cards=world)
    try:
        with gpu:
            run(folder)
    finally:
        written(gpu, kept, rank)


class OnFakeCards(Trainer):
    """In a process of the launcher: the cards are there from the moment on when the trainer is made."""

    def __init__(self, job: Job, place: Place, *parts: Any) -> None:
        if not torch.cuda.is_available():  # the trainer of the resume is a second one
            gpu = Recording(cards=place.world)
            gpu.__enter__()
            atexit.register(written, gpu, Path(os.environ[KEPT]), place.rank)
        super().__init__(job, place, *parts)


def read(kept: Path, world: int) -> list[dict[str, Any]]:
    return [json.loads((kept / f"asked{rank}.json").read_text()) for rank in range(world)]


def judge(report: Report, ranks: list[dict[str, Any]]) -> None:
    assert not [finding for finding in report.findings if finding.status == "fail"]
    for rank, record in enumerate(ranks):
        asked = [(name, value) for name, value in record["asked"]]
        names = [name for name, _ in asked]
        # Before the group, in which collectives of objects go to the current device.
        assert asked[names.index("join")] == ("join", rank)
        assert ("set_device", rank) in asked[: names.index("join")]
        assert {tuple(value) for name, value in asked if name == "ddp"} == {(rank,)}
        assert not [entry for entry in asked if entry[0] != "ddp" and entry[1] != rank]
        assert "random state" in names
        assert [most > 0 for most in record["most"]] == [card == rank for card in range(len(ranks))]
    # Rank 0 alone times a step without DDP, and waits for its card before it reads the clock.
    assert ["synchronize", 0] in ranks[0]["asked"]


def test_each_of_four_ranks_asks_its_own_card_alone(tmp_path: Path) -> None:
    report = train(
        nproc=4, device="cuda", work=partial(on_fake_cards, kept=tmp_path),
        settings={"DDP.BACKEND": "gloo"},
    )  # fmt: skip
    assert report.subject["device"] == "cuda"
    judge(report, read(tmp_path, 4))


def test_the_command_starts_a_process_for_each_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEPT, str(tmp_path))
    small = {
        "DATA.BATCH": 4, "DATA.SOURCE": "synthetic", "SOLVER.STEPS": 4, "SOLVER.VALIDATE_EVERY": 2,
        "DDP.BACKEND": "gloo",
    }  # fmt: skip
    with FakeGpu(cards=2):
        report = inspector.ddp(
            "tests.distributed.nets:Small", ["4x3x8x8"], kill=False, settings=small,
            trainer=f"{__name__}:OnFakeCards",
        )  # fmt: skip
    assert report is not None
    judge(report, read(tmp_path, 2))


def test_more_processes_than_cards_are_refused() -> None:
    with FakeGpu(cards=2), pytest.raises(InspectError, match="2"):
        inspector.ddp("tests.distributed.nets:Small", ["4x3x8x8"], nproc=3, kill=False)
