"""The one sentence that a report begins with, from its numbers alone."""

from __future__ import annotations

from typing import Any

import pytest

import inspector
from inspector.reporting.answers import answer
from inspector.reporting.report import Finding, Report, from_json, metrics
from inspector.reporting.tables import Table

pytestmark = pytest.mark.once


def made(
    command: str, numbers: dict[str, Any], findings: list[Finding] | None = None, **subject: Any
) -> Report:
    about = {"name": "net", "phase": "forward", "inputs": ["float32[1,3,8,8]"], **subject}
    return Report(command, about, {}, metrics(numbers), findings=findings or [])


def test_a_profile() -> None:
    report = made("profile", {"params": 25_557_032, "macs": 4_089_184_256})
    assert answer(report) == "net: 25.56 M parameters, 4.089 GMACs for float32[1,3,8,8]"


@pytest.mark.parametrize(
    ("macs", "words"), [(512, "512 MACs"), (None, "unknown MACs"), (1_500_000, "1.500 MMACs"), (0, "0 MACs")]
)
def test_units(macs: int | None, words: str) -> None:
    assert f", {words} for" in answer(made("profile", {"params": 1, "macs": macs}))


def test_a_lower_bound_is_said() -> None:
    report = made("profile", {"params": 1})
    report.metrics.update(metrics({"macs": 2_000}, {"macs"}))
    assert "at least 2.000 kMACs" in answer(report)


def test_a_step_of_a_service() -> None:
    serving = {"context": 8192, "batch": 2, "new_tokens": 1}
    report = made("profile", {"params": 1, "macs": 1}, phase="decode", serving=serving)
    assert answer(report).endswith("for a decode step of 2 sequences after 8,192 tokens")


def test_a_training_step() -> None:
    report = made("profile", {"params": 1, "macs": 1}, phase="train")
    assert answer(report).endswith("for one training step on float32[1,3,8,8]")


@pytest.mark.parametrize("command", ["freeze", "init", "ddp"])
def test_a_verification(command: str) -> None:
    passed, failed, skipped = (Finding("a", status, "", "") for status in ("pass", "fail", "skip"))
    assert (
        answer(made(command, {}, [passed, passed, skipped])) == "net: 2 checks passed, none failed, 1 skipped"
    )
    assert answer(made(command, {}, [passed, failed, failed])) == "net: FAILED a"
    assert answer(made(command, {}, [skipped])) == "net: nothing was verified"


@pytest.mark.parametrize(
    ("safe", "said"),
    [
        ({}, ""),  # a report of an earlier version
        ({"safe_batch": 240}, " whatever workspaces its libraries take"),
        ({"safe_batch": 200}, ", or of 200 whatever workspaces its libraries take"),
        ({"safe_batch": 0}, ", but none does if its libraries take their largest workspaces"),
    ],
)
def test_the_largest_batch_says_whether_it_is_safe(safe: dict[str, int], said: str) -> None:
    numbers = {"peak_allocated": 2**30, "peak_reserved": 2**31, "max_batch": 240, **safe}
    text = answer(made("memory", numbers, phase="train"))
    step = "net: a training step fits with a batch of 240"
    assert text == f"{step}{said} (1.000 GiB allocated, 2.000 GiB reserved at the peak)"


def test_a_report_that_was_read_says_the_same() -> None:
    report = inspector.profile("resnet18", "1x3x64x64")
    read = from_json(report.to_json(), "here")
    assert answer(read) == answer(report) != ""
    assert str(report).startswith(answer(report))


def test_what_it_cannot_read_has_no_sentence() -> None:
    assert answer(made("bench", {})) == ""
    assert answer(made("plugin's own", {})) == ""
    assert answer(made("reconcile", {})) == ""


def test_a_rank_of_many() -> None:
    numbers = {"peak_allocated": 2**30, "peak_reserved": 2 * 2**30, "sent_bytes": 2**20, "step_bound": 0.5}
    said = answer(made("scale", numbers, ranks=4096))
    assert said == (
        "net: each of 4,096 ranks has 1.000 GiB allocated, 2.000 GiB reserved at the peak, and sends"
        " 1.000 MiB a step of 500.0 ms at least"
    )


def test_a_search_of_meshes() -> None:
    report = made("scale", {"meshes_tried": 3, "meshes_fitting": 1}, gpus=8, gpu="H100 SXM")
    row = {"mesh": "dp=8", "shard": "fsdp", "fits": True}
    report.tables["meshes"] = Table.of([row, {**row, "fits": False}])
    assert answer(report) == "net: 1 of 3 meshes of 8 H100 SXM fit; dp=8 fsdp is the fastest, at most"
