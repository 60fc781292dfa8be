"""Child processes forked from one that has imported what they need, and computed nothing.

An import of torch takes seconds of every process; here it happens once, beside the work of the caller. Only
on Linux: elsewhere a fork is not safe, or not there, and the children are ordinary ones.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from inspector.core.collection import paused
from inspector.core.files import write_whole
from inspector.core.processes import PARENT, Child, installed_search, serve

_nursery: ContextVar[Nursery | None] = ContextVar("nursery", default=None)
_LOOK = 0.01
_CLAIMED = 10.0
"""Seconds within which an order that was taken must have become a process."""


class Nursery:
    """A process that imports `modules` ("module", or "module:function" to call too) and then forks a child
    for each order; as long as it lives.

    Where none can be started, `child` gives ordinary children. `folder` holds orders and what became of them.
    """

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self.folder = folder
        self.process: Child | None = None
        self._orders, self._environment = 0, dict(os.environ)
        if sys.platform == "linux":
            words = [str(folder), str(os.getpid()), *modules]
            search = installed_search()
            self.process = Child(f"{__name__}:main", words, folder, "nursery", search=search, watched=False)

    def child(
        self,
        function: str,
        words: Sequence[str],
        folder: Path,
        name: str = "child",
        *,
        search: Iterable[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """As `Child(...)`."""
        if self.process is None or self.process.code is not None:
            return Child(function, words, folder, name, search=search, environment=environment)
        order = {
            "function": function, "words": list(words), "folder": str(folder.absolute()), "name": name,
            "search": list(search if search is not None else sys.path), "cwd": os.getcwd(),
            "environment": {**self._changed(), **(environment or {})},
        }  # fmt: skip
        return Forked(self._order(order), self.process, folder, name)

    def prepare(self, function: str, words: Sequence[str]) -> None:
        """Have the process itself call `function`: children that are ordered later find what it leaves. What
        it raises is lost; ordinary children find nothing."""
        if self.process is not None:
            self._order({"function": function, "words": list(words)})

    def _order(self, order: dict[str, Any]) -> Path:
        self._orders += 1
        file = self.folder / f"{self._orders:06}.order"
        write_whole(file, json.dumps(order))
        return file

    def _changed(self) -> dict[str, str | None]:
        """What has changed in the environment since it was started; None for what is gone."""
        then = self._environment
        return {
            name: os.environ.get(name)
            for name in {**then, **os.environ}
            if then.get(name) != os.environ.get(name)
        }

    def end(self) -> None:
        """End it; its children end with it."""
        if self.process is not None:
            self.process.end()


@contextmanager
def nursery(*modules: str) -> Iterator[Nursery]:
    """A nursery that ends with the context, and all its children with it; inside another, that one: a command
    starts it before this process has imported torch. What it has not imported, a child imports."""
    if (outer := _nursery.get()) is not None:
        yield outer
        return
    with tempfile.TemporaryDirectory(prefix="inspector-nursery-") as name:
        made = Nursery(Path(name), modules)
        token = _nursery.set(made)
        try:
            yield made
        finally:
            _nursery.reset(token)
            made.end()


class Forked(Child):
    """A child of a nursery: the same to its caller as one that was started."""

    def __init__(self, order: Path, nursery: Child, folder: Path, name: str) -> None:
        self.log, self._answer = folder / f"{name}.log", folder / f"{name}.json"
        self.log.touch()
        self._order, self._nursery = order, nursery
        self._ended: int | None = None

    @property
    def code(self) -> int | None:
        if self._ended is None:
            self._ended = _number(self._order.with_suffix(".code"))
        if self._ended is None and self._nursery.code is not None:
            self._ended = -signal.SIGKILL  # it ended with its nursery
        return self._ended

    def wait(self, seconds: float) -> bool:
        end = time.monotonic() + max(seconds, 0.0)
        while self.code is None:
            if time.monotonic() > end:
                return False
            time.sleep(_LOOK)
        return True

    def end(self, grace: float = 0.0) -> None:
        if self._ended is None and _taken(self._order):
            self._ended = -signal.SIGKILL  # nobody had begun it
        number = self._pid()
        if number is None:
            return
        if grace and self.code is None:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
            self.wait(grace)
        with suppress(ProcessLookupError):
            os.killpg(number, signal.SIGKILL)
        end = time.monotonic() + _CLAIMED
        while not self.wait(10 * _LOOK) and time.monotonic() < end:
            if _dead(number):  # a nursery that prepares something would say so later
                self._ended = -signal.SIGKILL

    def _pid(self) -> int | None:
        """Its number; None where no process came of the order."""
        end = time.monotonic() + _CLAIMED
        while (number := _number(self._order.with_suffix(".pid"))) is None:
            if self.code is not None or time.monotonic() > end:
                return None
            time.sleep(_LOOK)
        return number


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return None


def _dead(number: int) -> bool:
    """Whether a process has ended, also where its parent has not looked yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def _taken(order: Path) -> bool:
    """Take the order away: one side alone can."""
    try:
        order.rename(order.with_suffix(".taken"))
    except FileNotFoundError:
        return False
    return True


# In the nursery.


def main(words: list[str]) -> None:
    """What the process does: import, then fork for each order until its parent is gone."""
    folder, parent, modules = Path(words[0]), int(words[1]), words[2:]
    with paused():
        for name in modules:
            _prepare(name)
    alive: dict[int, Path] = {}
    while os.getppid() == parent:
        for order in sorted(folder.glob("*.order")):
            if not _taken(order):
                continue
            content = json.loads(order.with_suffix(".taken").read_text())
            if "folder" not in content:
                _prepare(content["function"], content["words"])
                continue
            number = _fork(content)
            alive[number] = order
            write_whole(order.with_suffix(".pid"), str(number))
        for number, order in list(alive.items()):
            ended, status = os.waitpid(number, os.WNOHANG)
            if ended:
                del alive[number]
                write_whole(order.with_suffix(".code"), str(os.waitstatus_to_exitcode(status)))
        time.sleep(_LOOK)
    shutil.rmtree(folder, ignore_errors=True)  # its owner was killed, and cannot


def _prepare(name: str, *arguments: Any) -> None:
    """Import a module, and call its function where `name` has one."""
    module, _, function = name.partition(":")
    with suppress(Exception):  # the child that needs it raises the same, where it is heard
        imported = importlib.import_module(module)
        if function:
            getattr(imported, function)(*arguments)
    gc.freeze()  # a collection in a child would walk over it, and copy its pages


def _fork(order: dict[str, Any]) -> int:
    """The number of the process that carries the order out."""
    sys.stdout.flush()
    sys.stderr.flush()
    number = os.fork()
    if number == 0:
        _become(order)
    return number


def _adopt(environment: dict[str, str | None]) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    threads = environment.get("OMP_NUM_THREADS") or ""
    if "torch" in sys.modules and threads.isdigit():  # the variable is read when torch is loaded
        sys.modules["torch"].set_num_threads(int(threads))


def _become(order: dict[str, Any]) -> None:
    """Turn this fork into the child that was ordered; it never returns."""
    code, folder, name = 1, Path(order["folder"]), order["name"]
    try:
        os.setsid()
        log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.chdir(order["cwd"])
        search = [entry or os.getcwd() for entry in order["search"]]
        own = {"PYTHONPATH": os.pathsep.join(search), PARENT: str(os.getppid())}
        _adopt({**order["environment"], **own})
        sys.path[:] = dict.fromkeys([*search, *sys.path])
        serve(order["function"], str(folder / f"{name}.json"), order["words"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
