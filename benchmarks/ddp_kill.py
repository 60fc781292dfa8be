"""Kill a worker or the launcher of `inspect ddp` at a random moment of its run, again and again.

After each kill nothing may hang, no process may stay, and the checkpoint must be whole: readable, or not yet
there. When a worker was killed, the command must end by itself and say so (or have been done by then); when
the launcher was, all that it started must be gone within five seconds.

python benchmarks/ddp_kill.py [RUNS] [SEED]
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from common import save

from inspector.core.errors import InspectError
from inspector.distributed import checkpoint

ROOT = Path(__file__).parents[1]
WORDS = [
    "ddp", "tests.distributed.nets:Small", "--input", "4x3x8x8", "--device", "cpu", "--nproc", "2",
    "--steps", "40", "--batch", "4", "--set", "SOLVER.VALIDATE_EVERY=5", "--set", "DDP.STALL=40",
    "--deadline", "240", "--format", "json",
]  # fmt: skip
LONGEST = 300.0
"""Seconds after which a run hangs."""
GONE = 5.0
"""Seconds within which nothing of a dead launcher may be left."""
WORKER = "inspector.distributed.start"


def main(words: list[str]) -> None:
    runs = int(words[0]) if words else 50
    draw = random.Random(int(words[1]) if len(words) > 1 else 0)
    span = _whole_run()
    rows: list[dict[str, Any]] = []
    wrong: list[dict[str, Any]] = []
    for number in range(runs):
        victim, row = "launcher" if number % 2 else "worker", {"killed": "", "wrong": ""}
        while not (row["killed"] or row["wrong"]):  # it may end before the moment
            row = _one(victim, draw.uniform(0.5, span), draw)
        rows.append(row)
        print(number + 1, rows[-1], flush=True)
        wrong = [row for row in rows if row["wrong"]]
        save("ddp_kill", {"runs": len(rows), "whole_run_seconds": span, "wrong": len(wrong), "rows": rows})
    sys.exit(1 if wrong else 0)


def _whole_run() -> float:
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(_command(folder), capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return round(time.monotonic() - start, 1)


def _command(folder: str) -> list[str]:
    return [sys.executable, "-m", "inspector", *WORDS, "--output-dir", folder]


def _one(victim: str, moment: float, draw: random.Random) -> dict[str, Any]:
    """One run, and what was wrong with it ("" for nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "out.json"
        with log.open("wb") as stream, (Path(folder) / "err.txt").open("wb") as errors:
            command = psutil.Popen(_command(folder), stdout=stream, stderr=errors, cwd=ROOT)
            killed, family = _kill(command, victim, moment, draw)
            start = time.monotonic()
            _, left = psutil.wait_procs([command], timeout=LONGEST)
            seconds = time.monotonic() - start
            _, stayed = psutil.wait_procs(family, timeout=GONE)
            for process in (*left, *stayed):
                process.kill()
        wrong = "hangs" if left else f"{len(stayed)} processes stay" if stayed else ""
        wrong = wrong or _checkpoint(Path(folder))
        if victim == "worker":
            wrong = wrong or _told(log, command.returncode, killed)
        row = {"victim": victim, "killed": killed, "moment": round(moment, 1), "seconds": round(seconds, 1)}
        return {**row, "code": command.returncode, "wrong": wrong}


def _kill(command: Any, victim: str, moment: float, draw: random.Random) -> tuple[str, list[Any]]:
    """Kill at `moment`; a worker where there is one by then (else as soon as there is)."""
    start, family = time.monotonic(), {}
    while command.poll() is None:
        for process in command.children(recursive=True):
            family[process.pid] = process
        workers = [p for p in family.values() if _is_worker(p)]
        if time.monotonic() - start >= moment and (victim == "launcher" or workers):
            target = command if victim == "launcher" else draw.choice(workers)
            for process in command.children(recursive=True):
                family[process.pid] = process
            phase = "launcher" if victim == "launcher" else f"worker {target.pid}"
            target.send_signal(signal.SIGKILL)
            return phase, list(family.values())
        time.sleep(0.05)
    return "", list(family.values())


def _is_worker(process: Any) -> bool:
    try:
        words = process.cmdline()
        return WORKER in words and "torch.distributed.run:main" not in words and process.is_running()
    except psutil.Error:
        return False


def _checkpoint(folder: Path) -> str:
    file = folder / "checkpoint.pt"
    if not file.exists():
        return ""
    try:
        return "" if checkpoint.load(file)["step"] % 5 == 0 else "the checkpoint is of another step"
    except InspectError as error:
        return error.message


def _told(log: Path, code: int, killed: str) -> str:
    """What is wrong with the report of a run that lost a worker."""
    try:
        content = json.loads(log.read_text())
    except ValueError:
        return f"no report, exit code {code}"
    failed = [f["message"] for f in content["findings"] if f["status"] == "fail"]
    if failed:
        return failed[0]
    told = any(f["check"] == "worker" for f in content["findings"])
    meant = any(f["check"] == "killed" and f["status"] == "pass" for f in content["findings"])
    return "" if told or meant or not killed else "the report does not tell it"


if __name__ == "__main__":
    main(sys.argv[1:])
