"""Start the workers, forked where that is safe and else by torch's elastic launcher; watch them, and never
wait forever."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspector.core.forking import Nursery
from inspector.core.processes import Child, loopback
from inspector.distributed.forks import Workers

POLL = 0.1
GRACE = 10.0
"""Seconds that the agent gets to stop its workers."""
DUMP = 1.0
"""Seconds that the ranks get to write their stacks."""
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Group:
    """How many processes run where, in torchrun's terms."""

    nproc: int
    nnodes: int = 1
    node_rank: int = 0
    endpoint: str = ""
    restarts: int = 1
    stall: float = 60.0
    deadline: float = 600.0


@dataclass
class Outcome:
    """How the workers ended. `stalled` names the rank that others wait for, `stacks` are what each rank
    was doing then, `errors` what ranks raised, the first first; `printed` is what the launcher said."""

    code: int
    seconds: float = 0.0
    refused: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    stalled: dict[str, Any] | None = None
    late: bool = False
    stacks: dict[int, str] = field(default_factory=dict)
    exits: list[str] = field(default_factory=list)
    printed: str = ""


def command(group: Group, folder: Path, module: str) -> list[str]:
    """The arguments of torchrun. What has a default there is set explicitly here."""
    words = [f"--nnodes={group.nnodes}", f"--nproc-per-node={group.nproc}"]
    words += ["--rdzv-backend=c10d", f"--rdzv-id=inspect-{os.getpid() if group.nnodes == 1 else 0}"]
    words += [f"--rdzv-endpoint={group.endpoint or 'localhost:0'}"]
    if group.nnodes > 1:
        host, wait = int(group.node_rank == 0), int(group.stall)
        waits = ",".join(f"{name}={wait}" for name in ("join_timeout", "timeout", "read_timeout"))
        words += [f"--rdzv-conf=is_host={host},{waits}"]
        address = own_address(group.endpoint)
        words += [f"--local-addr={address}"] if address else []
    words += [f"--max-restarts={group.restarts}", "--monitor-interval=0.2", "--start-method=spawn"]
    words += ["--redirects=3", f"--log-dir={folder / 'agents'}"]
    return [*words, "-m", module, str(folder)]


def own_address(endpoint: str) -> str:
    """The address under which the machine at `endpoint` (HOST:PORT) sees this one; "" without a route to it.
    A machine's own name often resolves to its loopback address, which no other machine can reach."""
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host or endpoint, int(port) if port.isdigit() else 29400))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def launch(
    group: Group,
    folder: Path,
    module: str,
    tell: Tell = lambda beat: None,
    nursery: Nursery | None = None,
) -> Outcome:
    """Run `python -m module FOLDER` in every process, or the same in processes that `nursery` forks; return
    when all have ended, or at the deadline."""
    start = time.monotonic()
    outcome = Outcome(-1)
    agent: Child | Workers
    if nursery is not None:
        agent = Workers(nursery, folder, group.nproc, group.restarts, f"{module}:forked")
    else:
        words = command(group, folder, module)
        agent = Child("torch.distributed.run:main", words, folder, "agent", environment=_environment(group))
    try:
        _watch(agent, folder, group, tell, outcome)
    finally:
        agent.end(GRACE)  # then by force: the workers lead process groups of their own
        _send(signal.SIGKILL, (beat for beat in read_beats(folder).values() if beat["phase"] != "done"))
    tell(read_beats(folder).get(0, {}))
    outcome.code = agent.code or 0
    outcome.seconds = time.monotonic() - start
    outcome.refused = next(iter(refusals(folder)), None)
    outcome.errors = errors(folder)
    outcome.printed = agent.printed()
    outcome.exits = re.findall(r"exitcode\s*:\s*(-?\d+)", outcome.printed)
    return outcome


def _environment(group: Group) -> dict[str, str]:
    share = str(max(1, (os.cpu_count() or 1) // group.nproc))
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}
    return {**threads, **loopback()} if group.nnodes == 1 else threads


def _watch(agent: Child | Workers, folder: Path, group: Group, tell: Tell, outcome: Outcome) -> None:
    """Wait for the agent's end, a refusal, a rank that holds up the others, or the deadline."""
    start = time.monotonic()
    while not agent.wait(POLL) and not refusals(folder):
        beats = read_beats(folder)
        if 0 in beats:
            tell(beats[0])
        outcome.late = time.monotonic() - start > group.deadline
        if outcome.late or stalled(beats, group):
            outcome.stacks = stacks(folder, beats)
            outcome.stalled = behind(beats, outcome.stacks)
            return


def read_beats(folder: Path) -> dict[int, dict[str, Any]]:
    """The last sign of life of each rank of this node."""
    beats = {}
    for file in folder.glob("beat*.json"):
        try:
            beats[int(file.stem[4:])] = json.loads(file.read_text())
        except (OSError, ValueError):
            continue  # being written
    return beats


def stalled(beats: dict[int, dict[str, Any]], group: Group) -> bool:
    """Whether all ranks of this node have started, and none has moved for `stall` seconds."""
    times = [beat["time"] for beat in beats.values()]
    return len(times) >= group.nproc and time.time() - max(times) > group.stall


def behind(beats: dict[int, dict[str, Any]], stacks: dict[int, str]) -> dict[str, Any] | None:
    """The rank with the fewest steps; among equals one that is not waiting inside torch, then the one silent
    for longest."""
    if not beats:
        return None

    def order(rank: int) -> tuple[int, bool, float]:
        return beats[rank].get("step") or 0, waiting(stacks[rank]), beats[rank]["time"]

    rank = min(beats, key=order)
    return {"rank": rank, **beats[rank]}


def waiting(stack: str) -> bool:
    """Whether the main thread's innermost frame is torch's own: a backward, a collective."""
    _, _, main = stack.rpartition("Current thread")
    frames = [line for line in main.splitlines() if line.strip().startswith("File")]
    return bool(frames) and "/torch/" in frames[0]


def stacks(folder: Path, beats: dict[int, dict[str, Any]]) -> dict[int, str]:
    """Ask every rank of this node where it is, and read what it wrote."""
    _send(signal.SIGUSR1, beats.values())
    time.sleep(DUMP)
    files = {rank: folder / f"stack{rank}.txt" for rank in beats}
    return {rank: f.read_text(errors="replace") if f.exists() else "" for rank, f in files.items()}


def _send(number: int, beats: Iterable[dict[str, Any]]) -> None:
    """Send a signal to the ranks that are still there."""
    for beat in beats:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(beat["pid"], number)


def refusals(folder: Path) -> list[dict[str, Any]]:
    """The input that workers refused, by rank."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("refused*.json"))]


def errors(folder: Path) -> list[dict[str, Any]]:
    """What workers raised, in order of time."""
    entries = [json.loads(file.read_text()) for file in folder.glob("error*.json")]
    return sorted(entries, key=lambda entry: entry["time"])
