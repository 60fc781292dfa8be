"""A child that is forked from a nursery is to its caller what an ordinary child is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from inspector.core import forking
from inspector.core.forking import Forked, Nursery, nursery
from inspector.core.processes import Child

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux alone"),
]

ROOT = str(Path(__file__).parents[2])
SLOW = """
with open({mark!r}, "a") as stream:
    stream.write("imported once more\\n")
"""
WORK = """
import os, signal, subprocess, sys, time
import slow

def add(words):
    print("adding")
    return {"sum": sum(map(int, words))}

def surroundings(words):
    place = {"variable": os.environ.get("PLANTED"), "later": os.environ.get("LATER"), "folder": os.getcwd()}
    return {**place, "path": sys.path[:1], "leads": os.getpgrp() == os.getpid()}

def fail(words):
    print("first line")
    raise ValueError("planted here")

def leave(words):
    sys.exit(int(words[0]))

def die(words):
    os.kill(os.getpid(), signal.SIGSEGV)

def sleep(words):
    subprocess.Popen(["sleep", "600"])
    open(words[0], "w").close()
    time.sleep(600)

prepared = []

def prepare(words=("at once",)):
    prepared.extend(words)
    if words[0] == "in vain":
        raise ValueError("planted here")

def wait(words):
    time.sleep(float(words[0]))

def seen(words):
    prepared.extend(words)
    return prepared

def stubborn(words):
    signal.signal(signal.SIGTERM, lambda number, frame: open(words[0] + ".asked", "w").close())
    sleep(words)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "slow.py").write_text(SLOW.format(mark=str(tmp_path / "imports")))
    (tmp_path / "work.py").write_text(WORK)
    return tmp_path


@pytest.fixture
def forks(folder: Path, no_other: None) -> Iterator[Nursery]:
    with nursery("slow", "a_module_that_nobody_has") as made:
        yield made


def child(forks: Nursery, folder: Path, function: str, *words: str, name: str = "child") -> Child:
    return forks.child(f"work:{function}", words, folder, name, search=[str(folder), ROOT])


def appears(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"{file} does not appear"
        time.sleep(0.02)


@pytest.fixture(autouse=True)
def no_other() -> Iterator[None]:
    """Without the nursery of the other tests."""
    token = forking._nursery.set(None)
    OTHERS.update(psutil.Process().children(recursive=True))
    yield
    forking._nursery.reset(token)


OTHERS: set[psutil.Process] = set()


def living(root: psutil.Process | None = None) -> list[psutil.Process]:
    everyone = set((root or psutil.Process()).children(recursive=True)) - OTHERS
    return [process for process in everyone if process.status() != psutil.STATUS_ZOMBIE]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def test_forked_children_answer_and_share_one_import(forks: Nursery, folder: Path) -> None:
    first = child(forks, folder, "add", "1", "2", name="first")
    second = child(forks, folder, "add", "3", "4", name="second")
    assert isinstance(first, Forked)
    assert first.wait(60)
    assert second.wait(60)
    assert (first.answer(), first.code, first.printed()) == ({"sum": 3}, 0, "adding")
    assert (second.answer(), second.code) == ({"sum": 7}, 0)
    assert (folder / "imports").read_text().splitlines() == ["imported once more"]


def test_a_forked_child_has_its_own_surroundings(
    forks: Nursery, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = [str(folder / "first"), str(folder), ROOT]
    asked = {"PLANTED": "here"}
    monkeypatch.setenv("LATER", "too")  # both after the nursery was started
    monkeypatch.chdir(folder)
    one = forks.child("work:surroundings", [], folder, search=search, environment=asked)
    assert one.wait(60)
    expected = {"variable": "here", "later": "too", "folder": os.getcwd(), "path": search[:1], "leads": True}
    assert one.answer() == expected


def test_how_a_forked_child_ends_is_told_as_of_any_other(forks: Nursery, folder: Path) -> None:
    failing = child(forks, folder, "fail", name="failing")
    leaving = child(forks, folder, "leave", "7", name="leaving")
    dying = child(forks, folder, "die", name="dying")
    assert failing.wait(60)
    assert leaving.wait(60)
    assert dying.wait(60)
    assert failing.answer() is None
    assert failing.printed().startswith("first line")
    assert failing.death() == "its process ended with 1: ValueError: planted here"
    assert leaving.death() == "its process ended with 7: no output"
    assert dying.code == -signal.SIGSEGV
    assert dying.death().startswith(f"its process was killed by signal {int(signal.SIGSEGV)}")


def test_ending_a_forked_child_ends_what_it_started(forks: Nursery, folder: Path) -> None:
    sleeping = child(forks, folder, "sleep", str(folder / "sleeps"))
    appears(folder / "sleeps")
    assert not sleeping.wait(0.1)
    assert sleeping.code is None
    before = living()
    sleeping.end()
    assert sleeping.code == -signal.SIGKILL
    left = living()
    assert len(before) == 3  # the nursery, its child, and the child's own
    assert len(left) == 1


def test_a_forked_child_is_asked_before_it_is_killed(forks: Nursery, folder: Path) -> None:
    stubborn = child(forks, folder, "stubborn", str(folder / "sleeps"))
    appears(folder / "sleeps")
    stubborn.end(grace=1.0)
    assert (folder / "sleeps.asked").exists()
    assert stubborn.code == -signal.SIGKILL


def test_an_order_that_is_withdrawn_before_it_is_read_starts_nothing(folder: Path) -> None:
    (folder / "slow.py").write_text("import time; time.sleep(2)")
    with nursery("slow") as forks:
        never = child(forks, folder, "sleep", str(folder / "sleeps"), name="never")
        never.end()
        later = child(forks, folder, "add", "1", name="later")
        assert later.wait(60)
    assert never.code == -signal.SIGKILL
    assert not (folder / "sleeps").exists()


def test_children_end_with_their_nursery(folder: Path) -> None:
    with nursery("slow") as forks:
        sleeping = child(forks, folder, "sleep", str(folder / "sleeps"))
        appears(folder / "sleeps")
        everyone = living()
    assert len(everyone) == 3
    assert sleeping.code == -signal.SIGKILL
    assert gone(everyone)
    assert not forks.folder.exists()


def test_a_nursery_ends_with_the_process_that_started_it(folder: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from inspector.core.forking import nursery\n"
        f"folder = Path({str(folder)!r})\n"
        "with nursery('slow') as forks:\n"
        "    (folder / 'place').write_text(str(forks.folder))\n"
        f"    forks.child('work:sleep', [str(folder / 'sleeps')], folder, search=[str(folder), {ROOT!r}])\n"
        "    time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), ROOT])}
    parent = subprocess.Popen([sys.executable, "-c", program], env=environment)
    appears(folder / "sleeps")
    everyone = living(psutil.Process(parent.pid))
    assert len(everyone) == 3
    parent.kill()
    parent.wait()
    assert gone(everyone)
    assert not Path((folder / "place").read_text()).exists()


def test_where_no_fork_is_safe_children_are_started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking.sys, "platform", "darwin")
    with nursery("slow") as forks:
        one = child(forks, folder, "add", "1", "2")
        assert type(one) is Child
        assert one.wait(60)
        assert one.answer() == {"sum": 3}


def test_a_nursery_that_has_died_is_done_without(forks: Nursery, folder: Path) -> None:
    assert forks.process is not None
    forks.process.end()
    one = child(forks, folder, "add", "1", "2")
    assert type(one) is Child
    assert one.wait(60)
    assert one.answer() == {"sum": 3}


def test_what_is_prepared_the_children_find_that_are_ordered_later(folder: Path) -> None:
    with nursery("work:prepare") as forks:
        first = child(forks, folder, "seen", "first", name="first")
        forks.prepare("work:prepare", ["later"])
        forks.prepare("work:prepare", ["in vain"])
        forks.prepare("a_module_that_nobody_has:prepare", ["never"])
        second = child(forks, folder, "seen", "second", name="second")
        assert first.wait(60)
        assert second.wait(60)
        assert first.answer() == ["at once", "first"]
        assert second.answer() == ["at once", "later", "in vain", "second"]


def test_a_child_is_ended_at_once_while_its_nursery_prepares(forks: Nursery, folder: Path) -> None:
    sleeping = child(forks, folder, "sleep", str(folder / "sleeps"))
    appears(folder / "sleeps")
    forks.prepare("work:wait", ["6"])
    appears(forks.folder / "000002.taken")
    start = time.monotonic()
    sleeping.end()
    assert time.monotonic() - start < 3
    assert sleeping.code == -signal.SIGKILL


def test_where_no_fork_is_safe_nothing_is_prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forking.sys, "platform", "darwin")
    with nursery("work:prepare") as forks:
        forks.prepare("work:prepare", ["later"])
        one = child(forks, folder, "seen", "alone")
        assert one.wait(60)
        assert one.answer() == ["alone"]


def test_a_nursery_inside_another_is_that_one(forks: Nursery) -> None:
    with nursery("slow", "json") as inner:
        assert inner is forks
    assert forks.process is not None
    assert forks.process.code is None
