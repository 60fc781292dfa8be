"""Rows counted by several processes, forked where that is safe from one that has imported torch. Each takes
the next model that none has taken: one that dies takes no other's row along."""

from __future__ import annotations

import os
import pickle
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import torch

from inspector.core.files import write_whole
from inspector.core.forking import nursery
from inspector.core.processes import Child
from inspector.core.spec import library
from inspector.regress.sweep.row import Counted, Entry, count

_LOOK = 0.02


def counted(
    entries: Sequence[Entry], device: str | None, seed: int, jobs: int
) -> Generator[tuple[Entry, Counted | None], None, None]:
    """The entries with their rows, as `jobs` processes end them; None where the process died."""
    modules = __name__, *{name for entry in entries for name in library(entry.spec)}
    with tempfile.TemporaryDirectory(prefix="inspector-table-") as name, nursery(*modules) as forks:
        folder = Path(name)
        (folder / "tasks.pickle").write_bytes(pickle.dumps((list(entries), device, seed)))
        words = [name, str(max(torch.get_num_threads() // jobs, 1))]
        begin = partial(forks.child, f"{__name__}:work", words, folder)
        children = [begin(f"worker{number}") for number in range(jobs)]
        try:
            yield from _answers(entries, folder, children, begin)
        finally:
            for child in children:
                child.end()


def _answers(
    entries: Sequence[Entry], folder: Path, children: list[Child], begin: partial[Child]
) -> Generator[tuple[Entry, Counted | None], None, None]:
    """`children` grows by those that are started in the place of dead ones."""
    left, running, restarts = set(range(len(entries))), list(children), 0
    while running:
        ended = [child for child in running if child.code is not None]  # before the rows: it writes no more
        for row in [Path(file.path) for file in os.scandir(folder) if file.name.endswith(".row")]:
            counted = pickle.loads(row.read_bytes())
            row.unlink()
            left.remove(place := int(row.stem))
            yield entries[place], counted
        for child in ended:
            running.remove(child)
            sys.stderr.write(f"{text}\n" if (text := child.printed()) else "")
            taken = sum((folder / f"{place}.taken").exists() for place in range(len(entries)))
            if child.code and restarts < taken < len(entries):  # not where it could not even begin
                restarts += 1
                running.append(begin(f"worker{len(children)}"))
                children.append(running[-1])
        time.sleep(_LOOK)
    yield from ((entries[place], None) for place in sorted(left))


def work(words: list[str]) -> None:
    """In each process: count models until none is left. What they print goes to standard error."""
    folder = Path(words[0])
    torch.set_num_threads(int(words[1]))
    entries, device, seed = pickle.loads((folder / "tasks.pickle").read_bytes())
    for place, entry in enumerate(entries):
        try:
            (folder / f"{place}.taken").touch(exist_ok=False)
        except FileExistsError:
            continue
        with redirect_stdout(sys.stderr):
            row = count(entry, device, seed)
        write_whole(folder / f"{place}.row", pickle.dumps(row))
