"""Workers that are forked: how they start, end, and start again. What they do is put in place of a rank."""

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

from inspector.distributed import nursery

pytestmark = pytest.mark.once

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from inspector.core import processes
from inspector.distributed import nursery

def work(folder, rank, nproc, port, attempt):
    Path(folder, f"pid{rank}.{attempt}").write_text(str(os.getpid()))
    BODY
    return 0

nursery._worker, nursery.GRACE = work, 0.5
processes.serve(f"{nursery.__name__}:main", sys.argv[1], sys.argv[2:])
"""


def start(folder: Path, body: str, nproc: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    """A nursery whose workers run `body`, with its orders there from the start."""
    orders = folder / "start.json"
    orders.write_text(json.dumps({"folder": str(folder), "nproc": nproc, "restarts": restarts}))
    program = PROGRAM.replace("BODY", body)
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder / "answer"), str(orders), "no_such_module"],
        env={**os.environ, "INSPECTOR_PARENT": str(os.getpid())}, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def run(folder: Path, body: str, **how: int) -> tuple[int, str]:
    process = start(folder, body, **how)
    out, _ = process.communicate(timeout=30)
    return process.returncode, out


def pids(folder: Path) -> list[int]:
    return [int(file.read_text() or 0) for file in folder.glob("pid*")]


def test_all_workers_are_forked_from_one_process_and_end_well(tmp_path: Path) -> None:
    body = (
        "Path(folder, f'parent{rank}').write_text(f'{os.getppid()} {len(os.listdir(\"/proc/self/task\"))}')"
    )
    process = start(tmp_path, body, nproc=3)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    texts = [(tmp_path / f"parent{rank}").read_text() for rank in range(3)]
    assert texts == [f"{process.pid} 1"] * 3  # each one a fork of the nursery, with one thread
    assert len(set(pids(tmp_path))) == 3


def test_the_others_are_ended_when_one_dies(tmp_path: Path) -> None:
    """Rank 1 returns 3, rank 0 ends by SIGTERM, and rank 2 ignores that and is killed."""
    body = (
        "rank == 2 and signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    time.sleep(0.3)\n"
        "    if rank == 1: return 3\n"
        "    time.sleep(30)"
    )
    begun = time.monotonic()
    code, out = run(tmp_path, body, nproc=3)
    assert time.monotonic() - begun < 15
    assert code == 1
    assert sorted(out.splitlines()) == [
        "rank 0, start 0: exitcode: -15", "rank 1, start 0: exitcode: 3", "rank 2, start 0: exitcode: -9",
    ]  # fmt: skip


def test_a_worker_that_dies_is_started_again_with_the_others(tmp_path: Path) -> None:
    body = "if attempt == 0 and rank == 0: os.kill(os.getpid(), signal.SIGKILL)"
    code, out = run(tmp_path, body, restarts=2)
    assert code == 0
    assert "rank 0, start 0: exitcode: -9" in out
    assert sorted(file.name for file in tmp_path.glob("pid*.1")) == ["pid0.1", "pid1.1"]
    assert not list(tmp_path.glob("pid*.2"))


def test_one_that_wrote_down_why_is_not_started_again(tmp_path: Path) -> None:
    code, _ = run(tmp_path, "Path(folder, f'error{rank}.json').write_text('{}'); return 1", restarts=2)
    assert code == 1
    assert not list(tmp_path.glob("pid*.1"))


def test_workers_do_not_outlive_the_command(tmp_path: Path) -> None:
    """GIVEN a nursery with two workers at work, WHEN the process that started it is killed, THEN all end."""
    program = (
        "import sys, time; from pathlib import Path; from tests.distributed.test_nursery import start\n"
        "start(Path(sys.argv[1]), 'time.sleep(60)'); time.sleep(60)"
    )
    command = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("pid*"))) < 2 or 0 in pids(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    workers = [psutil.Process(pid) for pid in pids(tmp_path)]
    command.send_signal(signal.SIGKILL)
    command.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []


@pytest.mark.parametrize(("kind", "nodes"), [("cuda", 1), ("cpu", 2)])
def test_no_fork_with_gpus_or_on_several_machines(kind: str, nodes: int) -> None:
    assert not nursery.possible(kind, nodes)
    assert nursery.possible("cpu", 1) == sys.platform.startswith("linux")
