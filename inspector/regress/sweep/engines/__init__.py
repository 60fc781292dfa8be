"""Rows of a table counted by the workers of a Ray or Dask cluster that is there already.

Each file beside this one is a cluster: a context manager that connects, and in it `Cluster`. The rules are
those of `--jobs`: a model that raises is a row with its error, and so is one whose process dies also when it
is tried again alone; every row is in the journal as soon as it is known. Files of models must be there on the
workers, under the same paths. A worker whose versions are not those of this process is refused: its numbers
need not be the same.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

from inspector.core.errors import InspectError
from inspector.regress.sweep.row import Counted, Entry, count, failed

ENGINES = ("ray", "dask")
CONNECT = 5.0
"""Seconds that a cluster has to answer at its address."""
EMPTY = 60.0
"""Seconds after which a cluster without a worker is given up."""
LOST = "its process died on the cluster (out of memory, or a crash in native code)"
Task = tuple[Entry, str | None, int]
_ONE = threading.Lock()
"""A worker of Dask runs tasks in threads: two models must not be counted in one process at once."""


class Cluster(Protocol):
    """What an engine gives."""

    def everywhere(self, function: Callable[[], Any]) -> list[Any]:
        """What `function` returns on each machine or worker."""

    def submit(self, tasks: Sequence[Task]) -> None:
        """Hand out the rows: `row` of each task, by its place."""

    def done(self, seconds: float) -> list[tuple[int, Any]]:
        """The places and answers of rows that ended, after at most `seconds`; None where the process died.
        Raises what else went wrong there."""

    def workers(self) -> int:
        """How many there are now."""


def counted(
    engine: str, address: str, entries: Sequence[Entry], device: str | None, seed: int
) -> Generator[tuple[str, Counted], None, None]:
    """A row for each entry, as they end. Raises InspectError where the cluster cannot be used, or is lost."""
    if not entries:
        return
    with import_module(f"{__name__}.{engine}_cluster").connect(address) as cluster:
        expected = _versions()()
        there = cluster.everywhere(_versions())
        if not there:
            raise InspectError(f"the {engine} cluster at {address} has no workers", "start one first")
        for versions in there:
            _same(versions, expected)
        name = f"{engine} cluster at {address}"
        tasks = [(_absolute(entry), device, seed) for entry in entries]
        for place, answer in _twice(cluster, tasks, name):
            entry = entries[place]
            if answer is None:
                yield entry.name, failed(entry, LOST)
                continue
            _same(answer.pop("versions"), expected)
            answer["row"]["spec"] = entry.spec
            yield entry.name, Counted(**answer)


def _twice(cluster: Cluster, tasks: Sequence[Task], name: str) -> Iterator[tuple[int, Any]]:
    """What the rows gave, as they end. Those whose process died are tried again when the others have ended,
    each by itself: another row may have taken the process along."""
    cluster.submit(tasks)
    died = []
    for place, answer in _answers(cluster, len(tasks), name):
        if answer is None:
            died.append(place)
        else:
            yield place, answer
    for place in died:
        cluster.submit([tasks[place]])
        for _, answer in _answers(cluster, 1, name):
            yield place, answer


def _answers(cluster: Cluster, count: int, name: str) -> Iterator[tuple[int, Any]]:
    """What the rows gave, as they end."""
    seen, alive = 0, time.monotonic()
    while seen < count:
        try:
            batch = cluster.done(1.0)
        except InspectError:
            raise
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            raise _lost(f"the {name} cannot count: {message[:200]}") from error
        seen += len(batch)
        yield from batch
        if batch or cluster.workers():
            alive = time.monotonic()
        if time.monotonic() - alive > EMPTY:
            raise _lost(f"the {name} has had no worker for {EMPTY:.0f} s")


def _lost(message: str) -> InspectError:
    return InspectError(message, "go on from the rows that are known with `resume=True`, where it is back")


def row(entry: Entry, device: str | None, seed: int) -> dict[str, Any]:
    """On a worker: count one model. What it prints goes to the worker's log."""
    with _ONE, redirect_stdout(sys.stderr):
        return {"versions": _versions()(), **vars(count(entry, device, seed))}


def _versions() -> Callable[[], dict[str, str | None]]:
    """A function that says what is installed; it is sent as code, and so runs where inspector is not."""

    def versions() -> dict[str, str | None]:
        from importlib import import_module
        from importlib.metadata import PackageNotFoundError, version

        try:
            known: dict[str, str | None] = {"inspector": import_module("inspector").__version__}
        except (ImportError, AttributeError):
            known = {"inspector": None}
        for name in ("torch", "torchvision"):
            try:
                known[name] = version(name)
            except PackageNotFoundError:
                known[name] = None
        return known

    return versions


def _same(versions: dict[str, str | None], expected: dict[str, str | None]) -> None:
    for name, here in expected.items():
        there = versions[name]
        if there != here:
            has = f"has no {name}" if there is None else f"has {name} {there}"
            package = "torch-inspector" if name == "inspector" else name
            raise InspectError(
                f"a worker of the cluster {has}, and this process has {here}",
                f"install {package}=={here} on all workers",
            )


def _absolute(entry: Entry) -> Entry:
    """The entry with the path of a file here in whole: a worker runs in a folder of its own."""
    texts = (entry.spec, entry.spec.rpartition(":")[0], entry.spec.partition(":")[2])
    for path in texts:
        if path and (os.sep in path or "." in path) and not os.path.isabs(path) and os.path.exists(path):
            return replace(entry, spec=entry.spec.replace(path, os.path.abspath(path), 1))
    return entry


def reachable(address: str, example: str) -> None:
    """Raise InspectError unless something listens at an address that ends with HOST:PORT: a cluster's own
    client would try for a minute."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        raise InspectError(f"{address!r} is no address of a cluster", f"give e.g. `address={example!r}`")
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()
    except (OSError, OverflowError) as error:
        raise unreachable(address, error) from error


def within(seconds: float, address: str, connect: Callable[[], Any]) -> Any:
    """What `connect` returns. In a thread, since neither client returns where another service listens. Raises
    InspectError when it raises, or takes longer than `seconds`."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(connect())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise unreachable(address, errors[0]) from errors[0]
    if not results:
        raise unreachable(address, f"what listens there has not answered within {seconds:.0f} s")
    return results[0]


def unreachable(address: str, error: object) -> InspectError:
    """The error for an address at which no cluster of the engine answers."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return InspectError(
        f"no cluster answers at {address}: {reason}", "check the address, and that the cluster runs"
    )
