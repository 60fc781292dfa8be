"""Workers that are forked: how they start, end, and start again. What they do is put in place of a rank."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.core.forking import Nursery
from inspector.distributed import forks
from inspector.distributed.forks import Workers

pytestmark = pytest.mark.once
RANK, ATTEMPT = "RANK", "TORCHELASTIC_RESTART_COUNT"
Start = Callable[..., tuple[Workers, Path]]


@pytest.fixture
def start(nursery_of_all: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start workers that run a function of this file in the folder that comes with them."""
    (tmp_path / "agents").mkdir()
    monkeypatch.setattr(forks, "GRACE", 0.5)

    def begin(function: str, nproc: int = 2, restarts: int = 0) -> tuple[Workers, Path]:
        return Workers(nursery_of_all, tmp_path, nproc, restarts, f"{__name__}:{function}"), tmp_path

    return begin


def note(words: list[str]) -> tuple[int, int]:
    """(rank, start), noted in the folder with the parent, the port and the threads of the process."""
    rank, attempt = int(os.environ[RANK]), int(os.environ[ATTEMPT])
    imported = {"torch", "torchvision"} <= set(sys.modules)
    text = f"{os.getppid()} {os.environ['MASTER_PORT']} {threading.active_count()} {imported}"
    Path(words[0], f"note{rank}.{attempt}").write_text(text)
    return rank, attempt


def notes(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("note*"))


def ends_well(words: list[str]) -> None:
    note(words)


def test_all_workers_are_forks_of_one_process_that_has_imported_torch(start: Start) -> None:
    workers, folder = start("ends_well", nproc=3)
    assert workers.wait(30)
    assert (workers.code, workers.printed()) == (0, "")
    texts = {(folder / name).read_text() for name in notes(folder)}
    assert len(notes(folder)) == 3
    assert len(texts) == 1  # of one parent, with one port
    # the main thread, and the one that ends the process with its parent
    assert texts.pop().split()[2:] == ["2", "True"]


def one_returns_3(words: list[str]) -> None:
    rank, _ = note(words)
    if rank == 2:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if rank == 1:
        while len(list(Path(words[0]).glob("note*"))) < 3:
            time.sleep(0.02)
        sys.exit(3)
    time.sleep(60)


def test_the_others_are_ended_when_one_dies(start: Start) -> None:
    """Rank 0 ends by SIGTERM, rank 2 ignores that and is killed."""
    workers, _ = start("one_returns_3", nproc=3)
    assert workers.wait(30)
    assert (workers.code, workers.printed()) == (1, "rank 1, start 0: exitcode: 3")
    assert [child.code for child in workers.children] == [-signal.SIGTERM, 3, -signal.SIGKILL]


def dies_at_first(words: list[str]) -> None:
    if note(words) == (0, 0):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_started_again_with_the_others(start: Start) -> None:
    workers, folder = start("dies_at_first", restarts=2)
    assert workers.wait(30)
    assert (workers.code, workers.printed()) == (0, "rank 0, start 0: exitcode: -9")
    assert {"note0.1", "note1.1"} <= set(notes(folder))
    assert "note0.2" not in notes(folder)


def always_dies(words: list[str]) -> None:
    note(words)
    os.kill(os.getpid(), signal.SIGKILL)


def test_not_more_often_than_allowed(start: Start) -> None:
    workers, folder = start("always_dies", nproc=1, restarts=1)
    assert workers.wait(30)
    assert (workers.code, notes(folder)) == (1, ["note0.0", "note0.1"])


def says_why(words: list[str]) -> None:
    rank, _ = note(words)
    Path(words[0], f"error{rank}.json").write_text("{}")
    sys.exit(1)


def test_one_that_wrote_down_why_is_not_started_again(start: Start) -> None:
    workers, folder = start("says_why", nproc=1, restarts=2)
    assert workers.wait(30)
    assert (workers.code, notes(folder)) == (1, ["note0.0"])


def registers(words: list[str]) -> None:
    import atexit

    from inspector.distributed import rank, start

    def main(words: list[str]) -> int:
        atexit.register(Path(words[0], "note of the end").touch)
        return 0

    rank.main = main
    start.forked(words)


def test_what_is_registered_for_the_end_of_a_worker_runs(start: Start) -> None:
    workers, folder = start("registers", nproc=1)
    assert workers.wait(30)
    assert (workers.code, notes(folder)) == (0, ["note of the end"])


@pytest.mark.parametrize(("kind", "nodes"), [("cuda", 1), ("cpu", 2)])
def test_no_fork_with_gpus_or_on_several_machines(kind: str, nodes: int) -> None:
    assert not forks.possible(kind, nodes)
    assert forks.possible("cpu", 1) == sys.platform.startswith("linux")
