"""Counting many models: in turn or in several processes, and again from where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from inspector.core.errors import InspectError
from inspector.core.files import write_whole
from inspector.core.log import logger
from inspector.core.version import __version__
from inspector.regress.sweep import engines, workers
from inspector.regress.sweep.row import Counted, Entry, count, failed

Tell = Callable[[str, float], None]


def sweep(
    entries: Sequence[Entry],
    *,
    device: str | None = None,
    seed: int = 0,
    jobs: int = 1,
    engine: str | None = None,
    address: str | None = None,
    journal: Path | None = None,
    resume: bool = False,
    tell: Tell = lambda what, share: None,
) -> list[Counted]:
    """A row for each entry, in their order; a model that fails, or kills its process, is a row with its
    error. Every row is added to `journal` when it is known; with `resume` those that are there already,
    and did not fail, are taken from it. Once all are known the journal is removed. `engine` counts on the
    cluster at `address`, in place of `jobs` processes here."""
    key = _key(entries, device, seed)
    rows = _resumed(journal, key) if journal is not None and resume else {}
    if journal is not None:
        _begin(journal, key, rows)
    left = [entry for entry in entries if entry.name not in rows]
    if engine is None:
        counting = _counted(left, device, seed, min(jobs, max(len(left), 1)))
    else:
        counting = engines.counted(engine, address or "", left, device, seed)
    with closing(counting):  # an interrupt ends processes and tasks now, not when its traceback is gone
        for name, counted in counting:
            rows[name] = counted
            tell(name, len(rows) / len(entries))
            if journal is not None:
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(vars(counted), allow_nan=False) + "\n")
    if journal is not None:
        journal.unlink()
    return [rows[entry.name] for entry in entries]


def _counted(
    entries: Sequence[Entry], device: str | None, seed: int, jobs: int
) -> Generator[tuple[str, Counted], None, None]:
    if jobs <= 1:
        for entry in entries:
            yield entry.name, count(entry, device, seed)
        return
    died: list[Entry] = []
    with closing(workers.counted(entries, device, seed, jobs)) as counting:
        for entry, counted in counting:
            if counted is None:
                died.append(entry)
            else:
                yield entry.name, counted
    for entry in died:  # it may have been the others that took the memory
        logger.warning("a process died: %s gets one while no other runs", entry.name)
        with closing(workers.counted([entry], device, seed, 1)) as counting:
            ((_, counted),) = counting
        yield (
            entry.name,
            counted or failed(entry, "its process died (out of memory, or a crash in native code)"),
        )


def _key(entries: Sequence[Entry], device: str | None, seed: int) -> dict[str, Any]:
    """What the rows of a journal depend on, but for the code of the models."""
    return {
        "entries": [entry.as_dict() for entry in entries],
        "device": device,
        "seed": seed,
        "versions": [__version__, torch.__version__, version("torchvision")],
    }


def _resumed(journal: Path, key: dict[str, Any]) -> dict[str, Counted]:
    """The rows of a journal of the same question; a last line that was cut off is left out."""
    try:
        lines = journal.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InspectError(f"cannot read {journal}: {error}", f"remove {journal}") from error
    rows: dict[str, Counted] = {}
    try:
        if not lines or json.loads(lines[0]) != json.loads(json.dumps(key)):
            raise InspectError(
                f"{journal} belongs to another sweep: other models, options or versions",
                "leave out `resume=` to start again",
            )
        for line in lines[1:]:
            counted = Counted(**json.loads(line))
            if not counted.error:
                rows[counted.row["model"]] = counted
    except (ValueError, TypeError, KeyError) as error:
        logger.info("the journal ends in half a line: %s", error)
    return rows


def _begin(journal: Path, key: dict[str, Any], rows: dict[str, Counted]) -> None:
    lines = [json.dumps(key), *(json.dumps(vars(counted), allow_nan=False) for counted in rows.values())]
    write_whole(journal, "".join(f"{line}\n" for line in lines))
