"""What the benchmark scripts share: repeated interleaved timing, sweeps that resume, results as files."""

from __future__ import annotations

import gc
import json
import platform
import resource
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

MOST_GIB = 9
RESULTS = Path(__file__).parent / "results"


def interleaved(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function, run in turn `repeats` times after one warm-up round, so that a slow
    phase of a shared machine meets all of them."""
    for function in work.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    return statistics.median(values)


def environment() -> dict[str, Any]:
    """What a result was measured with."""
    import torch
    import torchvision

    import inspector

    return {
        "inspector": inspector.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def save(name: str, content: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json with the environment; of a dict of `rows`, one a line."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    rows = content.get("rows")
    content = {"environment": environment(), **content}
    if isinstance(rows, dict):
        del content["rows"]
    text = json.dumps(content, indent=1)
    if isinstance(rows, dict):
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items())
        text = f'{text[:-2]},\n "rows": {{\n{lines}\n }}\n}}'
    file.write_text(text + "\n")
    print(f"wrote {file.relative_to(Path(__file__).parent.parent)}", file=sys.stderr)


def resumable(
    name: str,
    keys: list[str],
    work: Callable[[str], dict[str, Any]],
    limit: int,
    rows: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """The row that `work` gives for each key, at most `limit` seconds of CPU time each. Rows are kept in
    build/NAME.jsonl as they come, so that a stopped sweep goes on where it was; delete the file to start
    again. `rows`: what is known already (None: what that file holds). What a key raises is its row:
    {"error": ...}; so is the death of the process, seen by the next one. Of memory the process gets
    `MOST_GIB`."""
    rows, file = dict(so_far(name) if rows is None else rows), _progress(name)
    file.parent.mkdir(exist_ok=True)
    signal.signal(signal.SIGPROF, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_GIB * 2**30, MOST_GIB * 2**30))
    running = file.with_suffix(".running")
    if running.exists() and running.read_text() not in rows:
        rows[running.read_text()] = {"error": "the process died", "seconds": 0.0}
    for number, key in enumerate(keys):
        if key in rows:
            continue
        running.write_text(key)
        started = time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, limit)
        try:
            row = work(key)
        except (Exception, SystemExit, TooLong) as error:  # a model may raise what it likes
            row = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        rows[key] = {**row, "seconds": round(time.perf_counter() - started, 2)}
        with file.open("a") as stream:
            stream.write(json.dumps([key, rows[key]]) + "\n")
        print(f"{number + 1}/{len(keys)} {key} {rows[key]}", file=sys.stderr, flush=True)
        gc.collect()
    return {key: rows[key] for key in keys}


def so_far(name: str) -> dict[str, dict[str, Any]]:
    """The rows that a sweep has written; the last of a key counts."""
    file = _progress(name)
    return dict(json.loads(line) for line in file.read_text().splitlines()) if file.exists() else {}


def committed(name: str, package: str) -> dict[str, dict[str, Any]]:
    """The rows of the result in the repository, by the last word of their keys. Raises RuntimeError where
    it was made with other versions of torch, Python or `package` than now."""
    file = RESULTS / f"{name}.json"
    content = json.loads(file.read_text()) if file.exists() else {}
    if not content:
        return {}
    now = {**environment(), package: version(package)}
    then = {**content["environment"], package: content[package]}
    changed = [f"{key} {then[key]}" for key in ("torch", "python", package) if then[key] != now[key]]
    if changed:
        raise RuntimeError(f"{file.name} was made with {', '.join(changed)}: move it away to start again")
    return {key.split()[-1]: row for key, row in content["rows"].items()}


def _progress(name: str) -> Path:
    return Path(__file__).parent.parent / "build" / f"{name}.jsonl"


class TooLong(BaseException):
    """No Exception: what tries one input after another would take it for one that does not fit."""


def _too_long(*_: Any) -> None:
    raise TooLong("no answer within the limit")


def unknown(trace: Any) -> dict[str, int]:
    """The operators without a formula, with how often each was called."""
    return dict(Counter(op.name for op in trace.ops if not op.known))
