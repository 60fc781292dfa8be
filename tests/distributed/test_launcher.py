"""The real launcher: workers that die, raise or stop moving, and machines that do not meet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from inspector.core.errors import InspectError
from inspector.reporting.report import Report
from tests.conftest import Run
from tests.distributed.local import launch
from tests.distributed.local import train as forked

pytestmark = pytest.mark.once


def train(trainer: str, **settings: object) -> Report:
    return launch(f"tests.faults.ddp.processes:{trainer}", **settings)


def test_a_worker_that_somebody_else_kills_goes_on_too() -> None:
    report = train("DiesOnce")
    assert report.verdict == "pass", [f for f in report.findings if f.status == "fail"]
    resumed = next(f for f in report.findings if f.check == "resumed")
    assert "step 3" in resumed.message
    (told,) = [f for f in report.findings if f.check == "worker"]
    assert told.status == "warn"
    assert "went on at step 3" in told.message


ELASTIC = (
    "import sys; from inspector.distributed import report; report.possible = lambda *_: False;"
    "from inspector.cli.main import main; sys.exit(main())"
)
"""The command where no fork is safe: torch's elastic launcher starts the workers."""


@pytest.mark.parametrize(
    ("end", "start"),
    [
        pytest.param(signal.SIGKILL, ["-m", "inspector"], id="killed"),
        pytest.param(signal.SIGTERM, ["-m", "inspector"], id="terminated"),
        pytest.param(signal.SIGKILL, ["-c", ELASTIC], id="killed, elastic"),
    ],
)
def test_nothing_stays_behind_when_the_command_is_ended(
    end: signal.Signals, start: list[str], tmp_path: Path
) -> None:
    words = [
        "ddp", "tests.distributed.nets:Small", "--input", "4x3x8x8", "--device", "cpu", "--no-kill",
        "--data", "synthetic", "--steps", "1000000", "--set", "SOLVER.VALIDATE_EVERY", "1000000",
    ]  # fmt: skip
    command = psutil.Popen(
        [sys.executable, *start, *words],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 120
        # the launcher's agent, or the process that workers are forked from, and two workers in their own code
        while len(family) < 3 or len(list(tmp_path.glob("*/beat*.json"))) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
            family = command.children(recursive=True)
        command.send_signal(end)
        _, alive = psutil.wait_procs(family, timeout=60 if end == signal.SIGTERM else 10)
        assert alive == []
        assert command.wait(10) == (-end if end == signal.SIGKILL else 128 + end)
    finally:
        for process in (*family, command):
            if process.is_running():
                process.kill()
    if end == signal.SIGTERM:
        assert list(tmp_path.glob("inspector-ddp-*")) == []


def test_the_first_rank_that_raises_is_named_with_its_traceback() -> None:
    report = train("Raises")
    assert report.verdict == "fail"
    found = [f for f in report.findings if f.check == "worker"]
    assert found[0].subject == "rank 1"
    assert "ValueError: planted here" in found[0].message
    assert "planted here" in found[-1].message


def test_machines_that_do_not_meet_are_one_line(inspect: Run) -> None:
    code, out, err = inspect(
        "ddp", "tests.distributed.nets:Small", "--input", "4x3x8x8", "--nnodes", "2", "--node-rank", "1",
        "--rdzv-endpoint", "127.0.0.1:9", "--device", "cpu", "--set", "DDP.STALL", "5", "--deadline", "40",
    )  # fmt: skip
    assert (code, out) == (2, "")
    assert "did not find each other at 127.0.0.1:9" in err
    assert "hint: " in err


def test_settings_from_a_file_and_a_resume(inspect: Run, tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(
        "SOLVER: {STEPS: 4, VALIDATE_EVERY: 2, BASE_LR: 1}\n"
        "DATA: {BATCH: 4}\n"
        "FREEZE: {PATTERNS: ['stem.*']}\n"
    )
    words = [
        "ddp", "tests.distributed.nets:Small", "--input", "4x3x8x8", "--config", file,
        "--device", "cpu", "--no-kill", "--data", "synthetic",
        "--output-dir", tmp_path / "run", "--set", "SOLVER.BASE_LR", "0.02", "--format", "json",
    ]  # fmt: skip
    code, out, err = inspect(*words)
    assert code == 0, err
    content = json.loads(out)
    assert content["verdict"] == "pass"
    config = {row["key"]: row["value"] for row in content["tables"]["config"]}
    assert (config["SOLVER.BASE_LR"], config["SOLVER.STEPS"]) == ("0.02", "4")
    assert [f["status"] for f in content["findings"] if f["check"] == "frozen"] == ["pass"]
    assert (tmp_path / "run" / "checkpoint.pt").exists()
    assert "validation loss" in (tmp_path / "run" / "log.txt").read_text()
    assert (tmp_path / "run" / "log.rank1.txt").exists()
    code, out, _ = inspect(*words, "--resume", "--steps", "6")
    assert code == 0
    assert [row["step"] for row in json.loads(out)["tables"]["steps"]] == [5, 6]
    code, _, err = inspect(*words, "--resume", "--steps", "6")
    assert code == 2
    assert "raise --steps" in err


@pytest.mark.parametrize(
    "key",
    ["DATA.WORKERS", "SOLVER.STEPS", "SOLVER.BASE_LR", "SOLVER.SCHEDULER.FACTOR", "DDP.STALL"],
)
def test_numbers_that_no_training_can_have_are_named(inspect: Run, key: str) -> None:
    code, out, err = inspect("ddp", "resnet18", "--set", key, "-1")
    assert (code, out) == (2, "")
    assert f"error: {key} is -1" in err
    assert "hint: " in err


def test_an_input_that_the_model_does_not_take_is_refused_before_processes_start(inspect: Run) -> None:
    code, out, err = inspect("ddp", "resnet18", "--device", "cpu", "--input", "1x4x32x32")
    assert (code, out) == (2, "")
    assert "got 4 in float32[8,4,32,32]" in err


@pytest.mark.parametrize("name", ["mpi", "nccl"])
def test_a_backend_that_cannot_work_is_refused(inspect: Run, name: str) -> None:
    code, out, err = inspect("ddp", "resnet18", "--device", "cpu", "--set", "DDP.BACKEND", name)
    assert (code, out) == (2, "")
    assert "hint: " in err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DATA.SOURCE": "/nowhere"}, "no data at"),
        ({"DATA.BATCH": 5000}, "a batch of 5000 on 2 processes"),
        ({"SOLVER.OPTIMIZER": "sgdd"}, "no optimizer"),
        ({"FREEZE.PATTERNS": "['*']"}, "every parameter is frozen"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(InspectError, match=message) as caught:
        forked(settings=settings)
    assert caught.value.hint


def test_a_parameter_that_cannot_be_sharded_is_refused() -> None:
    with pytest.raises(InspectError, match=r"FSDP2 refuses the model: .*scalar") as caught:
        forked(model="tests.distributed.nets:Scalar", settings={"DDP.SHARD": "fsdp"})
    assert "shard=" in str(caught.value.hint)


def test_a_sharded_training_goes_on_after_a_kill() -> None:
    report = launch("tests.faults.ddp.runs:Plain", kill=True, **{"DDP.SHARD": "fsdp"})
    assert report.verdict == "pass", [f for f in report.findings if f.status == "fail"]
    statuses = {finding.check: finding.status for finding in report.findings}
    assert (statuses["killed"], statuses["resume"], statuses["buffers"]) == ("pass", "pass", "warn")
    assert ("sharding", "FSDP2, 3 units and the rest: stem, norm, head") in report.header
