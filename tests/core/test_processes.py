"""A child process brings its answer back, and nothing of it stays, however it or its parent ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest

from inspector.core.processes import Child, free_port, side_by_side

pytestmark = pytest.mark.once

ROOT = str(Path(__file__).parents[2])
WORK = """
import os, signal, subprocess, sys, time

def add(words):
    print("adding")
    return {"sum": sum(map(int, words))}

def fail(words):
    print("first line")
    raise ValueError("planted here")

def die(words):
    os.kill(os.getpid(), signal.SIGKILL)

def sleep(words):
    subprocess.Popen(["sleep", "600"])
    open(words[0], "w").close()
    time.sleep(600)

def stubborn(words):
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    sleep(words)

def parent(words):
    from pathlib import Path
    from inspector.core.processes import Child
    Child("work:sleep", words, Path(words[0]).parent, "grandchild").wait(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


def child(folder: Path, function: str, *words: str) -> Child:
    return Child(f"work:{function}", words, folder, search=[str(folder), ROOT])


def appears(file: Path) -> None:
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def test_what_it_returns_comes_back(folder: Path) -> None:
    with child(folder, "add", "1", "2") as process:
        assert process.wait(60)
    assert (process.code, process.answer(), process.printed()) == (0, {"sum": 3}, "adding")


def test_what_it_raises_is_its_last_word(folder: Path) -> None:
    with child(folder, "fail") as process:
        assert process.wait(60)
    assert process.answer() is None
    assert process.death() == "its process ended with 1: ValueError: planted here"


def test_what_killed_it_is_told_in_words(folder: Path) -> None:
    with child(folder, "die") as process:
        assert process.wait(60)
    assert process.death() == "its process was killed by signal 9 (9: out of memory, perhaps)"


@pytest.mark.parametrize(("function", "code"), [("sleep", signal.SIGTERM), ("stubborn", signal.SIGKILL)])
def test_it_ends_with_all_that_it_started(folder: Path, function: str, code: int) -> None:
    process = child(folder, function, str(folder / "started"))
    appears(folder / "started")
    assert not process.wait(0)
    started = family(process._process.pid)
    process.end(grace=0.5)
    assert len(started) == 2
    assert psutil.wait_procs(started, timeout=10)[1] == []
    assert process.code == -code


@pytest.mark.parametrize("function", ["sleep", "parent"])
def test_a_killed_parent_leaves_nothing_behind(folder: Path, function: str) -> None:
    program = (
        "import sys; from pathlib import Path; from inspector.core.processes import Child;"
        "Child(sys.argv[1], sys.argv[3:], Path(sys.argv[2])).wait(600)"
    )
    words = [sys.executable, "-c", program, f"work:{function}", str(folder), str(folder / "started")]
    path = os.pathsep.join([str(folder), ROOT])
    parent = subprocess.Popen(words, env={**os.environ, "PYTHONPATH": path})
    appears(folder / "started")
    started = family(parent.pid)
    assert len(started) == (3 if function == "sleep" else 4)
    parent.kill()
    parent.wait()
    assert psutil.wait_procs(started[1:], timeout=20)[1] == []


def test_children_side_by_side_come_as_they_end_and_never_more_than_asked(folder: Path) -> None:
    running: set[int] = set()
    most = 0

    def start(index: int, function: str, *words: str) -> Child:
        nonlocal most
        running.add(index)
        most = max(most, len(running))
        search = [str(folder), ROOT]
        return Child(f"work:{function}", words, folder, f"child{index}", search=search)

    starts = [partial(start, 0, "add", "1", "2"), partial(start, 1, "fail"), partial(start, 2, "die")]
    ended = {}
    for index, child, seconds, in_time in side_by_side(starts, 2):
        running.discard(index)
        ended[index] = (child.answer(), child.code, in_time)
        assert seconds > 0
    assert ended == {0: ({"sum": 3}, 0, True), 1: (None, 1, True), 2: (None, -signal.SIGKILL, True)}
    assert most == 2


def test_a_child_that_takes_too_long_is_ended_and_so_are_all_when_nobody_listens(folder: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    marks = [folder / f"sleeps{index}" for index in range(3)]
    starts = [
        partial(Child, "work:sleep", [str(mark)], folder, mark.name, search=[str(folder), ROOT])
        for mark in marks
    ]
    ((_, child, seconds, in_time),) = side_by_side(starts[:1], 1, 1.0)
    assert (child.code, child.answer(), in_time) == (-signal.SIGKILL, None, False)
    assert seconds >= 1.0

    def short() -> Child:
        for mark in marks[1:]:
            appears(mark)  # both sleep by then
        return Child("work:add", ["1"], folder, "short", search=[str(folder), ROOT])

    with closing(side_by_side([*starts[1:], short], 3)) as children:
        assert next(children)[0] == 2
    assert not [
        process
        for process in set(psutil.Process().children(recursive=True)) - before
        if process.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="it reads the range from /proc")
def test_a_free_port_is_one_that_the_system_gives_to_nobody() -> None:
    low, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = {free_port() for _ in range(20)}
    assert len(ports) > 1
    assert max(ports) < min(low, 32_000)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
