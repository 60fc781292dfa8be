"""Child processes that always end: when their work is done, on request, or with the process that started
them, however that ends."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspector.core.errors import InspectError
from inspector.core.files import write_whole
from inspector.core.whose import own_process

PARENT = "INSPECTOR_PARENT"
"""The environment variable that holds the number of the process that a child must not outlive."""
_LOOK = 0.02
POLL = 0.5
"""Seconds between two looks at whether the parent is there."""

_PROGRAM = (
    "import sys; sys.path[:] = [entry for entry in sys.path if entry];"
    "from inspector.core.processes import serve; serve(*sys.argv[1:3], sys.argv[3:])"
)
"""The working folder is searched only where `search` names it: -c puts an empty entry in front."""


class Child:
    """`function` ("module:name"), called with `words` in a process and a process group of its own.

    What it prints goes to NAME.log in `folder`; what it returns, as JSON, comes back by `answer()`. It
    searches modules in the folders of `search`, which are those of this process by default. One that is not
    `watched` sees for itself that it ends with this process. As a context manager it ends with all that it
    started.
    """

    def __init__(
        self,
        function: str,
        words: Sequence[str],
        folder: Path,
        name: str = "child",
        *,
        search: Iterable[str] | None = None,
        environment: Mapping[str, str] | None = None,
        watched: bool = True,
    ) -> None:
        self.log, self._answer = folder / f"{name}.log", folder / f"{name}.json"
        path = [entry or os.getcwd() for entry in sys.path] if search is None else search
        with self.log.open("wb") as stream:  # not a pipe: what a child leaves running would keep it open
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, function, str(self._answer), *words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends its children in order
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path),
                    PARENT: str(os.getpid() if watched else 0),
                    **(environment or {}),
                },
            )

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> bool:
        """Whether it ends within `seconds`."""
        try:
            self._process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def end(self, grace: float = 0.0) -> None:
        """End it with its group: by SIGTERM, then after `grace` seconds by SIGKILL."""
        if grace and self.code is None:
            self._process.terminate()
            self.wait(grace)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except AttributeError:  # Windows has no process groups
            self._process.kill()
        self._process.wait()

    def answer(self) -> Any:
        """What the function returned; None where it returned nothing."""
        return json.loads(self._answer.read_text(encoding="utf-8")) if self._answer.exists() else None

    def printed(self) -> str:
        """What it has printed so far, errors too."""
        return self.log.read_text(encoding="utf-8", errors="replace").strip()

    def death(self) -> str:
        """How it ended, as a sentence."""
        code = self.code
        if code is not None and code < 0:
            return f"its process was killed by signal {-code} (9: out of memory, perhaps)"
        lines = self.printed().splitlines()
        return f"its process ended with {code}: {lines[-1].strip() if lines else 'no output'}"

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def side_by_side(
    starts: Sequence[Callable[[], Child]], at_once: int, seconds: float = float("inf")
) -> Generator[tuple[int, Child, float, bool], None, None]:
    """Start children, `at_once` at a time, and give each as it ends: its index, the child, the seconds it
    took, and whether it ended by itself within `seconds`. Those that run end with the iteration."""
    waiting = list(enumerate(starts))
    running: dict[int, tuple[Child, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index, start = waiting.pop(0)
                running[index] = start(), time.perf_counter()
            time.sleep(_LOOK)
            for index, (child, started) in list(running.items()):
                took = time.perf_counter() - started
                if child.code is not None or took > seconds:
                    in_time = child.code is not None
                    child.end()
                    del running[index]
                    yield index, child, took, in_time
    finally:
        for child, _ in running.values():
            child.end()


def installed_search() -> list[str]:
    """Where a child looks for modules that must not find a user's files: not in the working folder."""
    search = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return [*search, str(Path(__file__).parents[2])]


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def serve(function: str, answer: str, words: list[str]) -> None:
    """What the process of a `Child` does."""
    parent = int(os.environ[PARENT])
    if parent:
        end_with(parent)
    os.environ[PARENT] = str(os.getpid())
    own_process()
    module, _, name = function.partition(":")
    result = getattr(importlib.import_module(module), name)(words)
    if result is not None:
        write_whole(answer, json.dumps(result))


def end_with(parent: int) -> None:
    """End this process, and the group that it leads, when `parent`, which started it, is gone."""
    if not hasattr(os, "killpg"):  # Windows does not report that a parent is gone
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def free_port() -> int:
    """A port of this machine that nobody uses, below those that the system gives to whoever asks for any: it
    stays free until it is bound."""
    for _ in range(100):
        number = 20_000 + int.from_bytes(os.urandom(2), "big") % 12_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", number))
            except OSError:
                continue
            return number
    raise InspectError("no port between 20000 and 32000 is free", "end other programs")


def loopback() -> dict[str, str]:
    """The environment in which gloo connects the processes of this machine, whatever its name resolves to."""
    if not sys.platform.startswith("linux"):
        return {}
    return {"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")}
