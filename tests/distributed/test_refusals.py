"""What is refused before processes start, and processes that end with the one that started them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import inspector
from inspector.core.config import dump, load
from inspector.core.errors import InspectError
from inspector.core.processes import PARENT
from inspector.distributed import checkpoint, report
from inspector.distributed.checks.case import Case
from inspector.distributed.checks.processes import worker
from inspector.distributed.checks.resuming import killed, resume
from inspector.distributed.job import Job
from inspector.distributed.launch import Outcome

pytestmark = pytest.mark.once


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "launch", lambda *_: pytest.fail("processes started"))


def resumed(folder: Path, **more: Any) -> Any:
    how = {"nproc": 2, "device": "cpu", "resume": True, "output_dir": folder, **more}
    return inspector.ddp("tests.distributed.nets:Small", ["4x3x8x8"], **how)


def saved(folder: Path, **more: Any) -> Path:
    file = folder / "checkpoint.pt"
    checkpoint.save({"step": 3, "world": 2, "value": torch.zeros(1000), **more}, file)
    return file


def torn(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-900])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def program(file: Path) -> None:
    torch.save({"step": 3, "world": 2, "model": torch.nn.Linear(1, 1)}, file)


def inflating(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 70_000_000)


def other(file: Path) -> None:
    torch.save([1, 2], file)


@pytest.mark.parametrize("damage", [torn, empty, program, inflating, other])
def test_a_corrupt_checkpoint_is_refused_before_processes_start(tmp_path: Path, damage: Any) -> None:
    damage(saved(tmp_path))
    start = time.monotonic()
    with pytest.raises(InspectError) as caught:
        resumed(tmp_path)
    assert time.monotonic() - start < 5.0
    text = f"{caught.value.message} {caught.value.hint}"
    assert "checkpoint" in text
    assert "weights_only" not in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "more", "message"),
    [
        ({"world": 3}, {}, "written by 3 processes, but 2 run here"),
        ({}, {"steps": 3}, "the checkpoint is at step 3, and SOLVER.STEPS is 3"),
        ({"step": "x"}, {}, "the checkpoint is at step x"),
        ({}, {"shard": "fsdp"}, "written under ddp, and this run is under fsdp"),
        ({"shard": "fsdp"}, {}, "written under fsdp, and this run is under ddp"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_too(
    tmp_path: Path, content: Any, more: Any, message: str
) -> None:
    saved(tmp_path, **content)
    with pytest.raises(InspectError, match=message):
        resumed(tmp_path, **more)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"shard": "zero3"}, "`shard=` is 'zero3'"),
        ({"shard": "fsdp", "settings": {"DDP.FIND_UNUSED": True}}, "FSDP2 has no DDP.FIND_UNUSED"),
    ],
)
def test_what_fsdp2_does_not_have_is_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InspectError, match=message) as caught:
        inspector.ddp("tests.distributed.nets:Small", ["4x3x8x8"], device="cpu", **more)
    assert caught.value.hint


def test_a_second_run_in_the_same_folder_is_refused_and_the_first_leaves_it_free(tmp_path: Path) -> None:
    with report._folder(str(tmp_path), False, True):
        with pytest.raises(InspectError, match="another run writes to"):
            resumed(tmp_path, resume=False)
        with report._folder(str(tmp_path), False, False):  # a second machine of the same run
            pass
    with report._folder(str(tmp_path), False, True):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_dies_with_its_process_and_is_not_inherited(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, pathlib; from inspector.distributed.report import _alone\n"
        "with _alone(pathlib.Path(sys.argv[1])):\n"
        "    child = subprocess.Popen(['sleep', '30'], close_fds=False)\n"
        "    print(child.pid, flush=True)\n"
        "    input()\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert run.stdout is not None
    child = int(run.stdout.readline())
    try:
        with pytest.raises(InspectError, match="another run"), report._alone(tmp_path):
            pass
        run.kill()
        run.wait()
        with report._alone(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        run.stdout.close()


def test_a_signal_is_never_taken_for_the_end_of_a_model(tmp_path: Path) -> None:
    """GIVEN a model that is being built when SIGTERM comes, THEN the command ends by it, without an error."""
    file = tmp_path / "net.py"
    file.write_text(
        "import os, signal, time\n\n\n"
        "def build():\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(30)\n"
    )
    words = [
        sys.executable,
        "-m",
        "inspector",
        "ddp",
        f"{file}:build",
        "--device",
        "cpu",
        "--input",
        "1x3x8x8",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "", "")


def test_a_rank_whose_launcher_is_gone_ends_before_it_has_begun(tmp_path: Path) -> None:
    Job("resnet18", dump(load()), [], str(tmp_path), launched=True).write(tmp_path)
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "inspector.distributed.start", str(tmp_path)],
        env={**os.environ, PARENT: "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert time.monotonic() - start < 5.0


@pytest.fixture
def case() -> Any:
    """A run of 6 steps, a checkpoint after every 10."""
    job = Job("net", dump(load(None, {"SOLVER.STEPS": 6})), [], "out", kill=True)
    return lambda outcome=None, **first: Case(job, [{"after": {}, **first}], outcome or Outcome(0))


def test_a_run_that_is_too_short_says_how_many_steps_would_do(case: Any) -> None:
    """The first checkpoint is at step 10, so 11 steps are the least that go on after it."""
    for check in (killed, resume):
        (one,) = check(case())
        assert one.status == "skip"
        assert "SOLVER.STEPS 11 would do" in one.message


@pytest.mark.parametrize(
    ("first", "text"),
    [
        ({"deaths": 1, "resumed_at": 10}, "a process died, and not on purpose .* went on at step 10"),
        ({"deaths": 2}, "processes died 2 times, .* from the beginning"),
        ({"deaths": 1, "killed": {}}, "went on with the resume that was checked"),
    ],
)
def test_a_process_that_died_is_told(case: Any, first: dict[str, Any], text: str) -> None:
    (one,) = worker(case(**first))
    assert one.status == "warn"
    assert re.search(text, one.message)
    assert not worker(case(deaths=0))
    json.dumps(one.evidence)
