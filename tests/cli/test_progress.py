"""The bar of a command that takes long: only then, and only on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
ROOT = Path(__file__).parents[2]
WORK = """
import sys, time
import rich.console, rich.progress  # which takes longer than what is waited for, on a busy machine
from inspector.cli import progress
progress.SLOW = float(sys.argv[1])
with progress.steps("profile [b]net") as tell:
    time.sleep(0.4)
    tell("half of it", 0.5)
    time.sleep(0.7)
print("done", file=sys.stderr)
"""


def on_a_terminal(*words: str, **environment: str) -> str:
    """What a program prints to a standard error that is a terminal."""
    reader, writer = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *words],
        stderr=writer,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment},
    )
    os.close(writer)
    text = b""
    while True:
        try:
            piece = os.read(reader, 4096)
        except OSError:  # Linux says so where the other end is closed
            break
        if not piece:
            break
        text += piece
    os.close(reader)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == 0
    return text.decode()


def test_a_bar_appears_where_it_takes_long_says_what_is_done_and_goes_away() -> None:
    text = on_a_terminal("-c", WORK, "0.1")
    assert "profile [b]net" in text
    assert "half of it" in text
    assert text.replace("\r\n", "\n").endswith("\x1b[2Kdone\n")  # the line is erased before what follows


def test_what_is_done_in_time_shows_none() -> None:
    assert on_a_terminal("-c", WORK, "60").split() == ["done"]


def test_where_nobody_watches_there_is_none() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WORK, "0.01"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "done\n"


def test_every_command_has_one_also_without_news_of_its_own(net_file: Path) -> None:
    program = (
        "import sys, time; from inspector.cli import main, progress, command; progress.SLOW = 0.05;"
        "load = command._load; command._load = lambda place: (time.sleep(0.5), load(place))[1];"
        "sys.exit(main.main(['params', sys.argv[1]]))"
    )
    assert f"params {net_file}:Net" in on_a_terminal("-c", program, f"{net_file}:Net", COLUMNS="300")
