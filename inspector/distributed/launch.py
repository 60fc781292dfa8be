"""Start the workers by torch's elastic launcher, watch them, and never wait for ever."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POLL = 0.2
GRACE = 10.0
"""Seconds that the agent gets to stop its workers."""
DUMP = 1.0
"""Seconds that the ranks get to write their stacks."""
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Group:
    """How many processes where, as torchrun takes it."""

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
    was doing then, `errors` what ranks raised, the first first."""

    code: int
    seconds: float = 0.0
    refused: dict[str, Any] | None = None
    errors: list[dict[str, Any]] = field(default_factory=list)
    stalled: dict[str, Any] | None = None
    late: bool = False
    stacks: dict[int, str] = field(default_factory=dict)
    exits: list[str] = field(default_factory=list)


def command(group: Group, folder: Path, module: str) -> list[str]:
    """The words of torchrun. Everything that has a default there is set here."""
    words = [sys.executable, "-m", "torch.distributed.run"]
    words += [f"--nnodes={group.nnodes}", f"--nproc-per-node={group.nproc}"]
    words += ["--rdzv-backend=c10d", f"--rdzv-id=inspect-{os.getpid() if group.nnodes == 1 else 0}"]
    words += [f"--rdzv-endpoint={group.endpoint or 'localhost:0'}"]
    if group.nnodes > 1:
        wait = int(group.stall)
        conf = {"is_host": int(group.node_rank == 0), "join_timeout": wait, "timeout": wait}
        words += ["--rdzv-conf=" + ",".join(f"{key}={value}" for key, value in conf.items())]
        address = own_address(group.endpoint)
        words += [f"--local-addr={address}"] if address else []
    words += [f"--max-restarts={group.restarts}", "--monitor-interval=0.2", "--start-method=spawn"]
    words += ["--redirects=3", f"--log-dir={folder / 'agents'}"]
    return [*words, "-m", module, str(folder)]


def own_address(endpoint: str) -> str:
    """The address under which the machine at `endpoint` (HOST:PORT) sees this one; "" where none leads there.
    A machine's own name often means its loopback, which no other reaches."""
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host or endpoint, int(port) if port.isdigit() else 29400))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def launch(group: Group, folder: Path, module: str, tell: Tell = lambda beat: None) -> Outcome:
    """Run `python -m module FOLDER` in every process; return when all have ended, or at the deadline."""
    start = time.monotonic()
    outcome = Outcome(-1)
    with _living(folder):
        with (folder / "agent.log").open("wb") as log:
            agent = subprocess.Popen(
                command(group, folder, module),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(group),
                start_new_session=True,  # Ctrl-C reaches us alone, and we stop it in order
            )
        try:
            _watch(agent, folder, group, tell, outcome)
        finally:
            stop(agent, read_beats(folder))
    tell(read_beats(folder).get(0, {}))
    outcome.code = agent.returncode
    outcome.seconds = time.monotonic() - start
    found = refusals(folder)
    outcome.refused = found[0] if found else None
    outcome.errors = errors(folder)
    outcome.exits = re.findall(r"exitcode\s*:\s*(-?\d+)", (folder / "agent.log").read_text(errors="replace"))
    return outcome


def _environment(group: Group) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // group.nproc)))
    if group.nnodes == 1 and sys.platform.startswith("linux"):
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def _watch(agent: subprocess.Popen[bytes], folder: Path, group: Group, tell: Tell, outcome: Outcome) -> None:
    """Wait for the agent's end, a refusal, a rank that holds up the others, or the deadline."""
    start = time.monotonic()
    while agent.poll() is None and not refusals(folder):
        time.sleep(POLL)
        beats = read_beats(folder)
        if 0 in beats:
            tell(beats[0])
        outcome.stalled = stalled(beats, group)
        outcome.late = time.monotonic() - start > group.deadline
        if outcome.stalled or outcome.late:
            outcome.stacks = stacks(folder, beats)
            outcome.stalled = behind(beats, outcome.stacks)
            return


@contextmanager
def _living(folder: Path) -> Iterator[None]:
    """Hold a lock, which ends with this process however that ends: see `alive`."""
    with (folder / "launcher").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def alive(folder: Path) -> bool:
    """Whether the process that launched the workers of `folder` is there."""
    try:
        with (folder / "launcher").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def read_beats(folder: Path) -> dict[int, dict[str, Any]]:
    """The last sign of life of each rank of this node."""
    found = {}
    for file in folder.glob("beat*.json"):
        try:
            found[int(file.stem[4:])] = json.loads(file.read_text())
        except (OSError, ValueError):
            continue  # being written
    return found


def stalled(beats: dict[int, dict[str, Any]], group: Group) -> dict[str, Any] | None:
    """The rank that is behind, when none has moved for `stall` seconds."""
    if not beats or len(beats) < group.nproc:
        return None
    newest = max(beat["time"] for beat in beats.values())
    if time.time() - newest <= group.stall:
        return None
    return behind(beats)


def behind(beats: dict[int, dict[str, Any]], stacks: dict[int, str] | None = None) -> dict[str, Any] | None:
    """The rank with the fewest steps; of equals one that is not waiting inside torch, then the oldest."""
    if not beats:
        return None

    def order(rank: int) -> tuple[int, bool, float]:
        waits = stacks is not None and waiting(stacks.get(rank, ""))
        return beats[rank].get("step") or 0, waits, beats[rank]["time"]

    rank = min(beats, key=order)
    return {"rank": rank, **beats[rank]}


def waiting(stack: str) -> bool:
    """Whether the main thread's innermost frame is torch's own: a backward, a collective."""
    _, _, main = stack.rpartition("Current thread")
    frames = [line for line in main.splitlines() if line.strip().startswith("File")]
    return bool(frames) and "/torch/" in frames[0]


def stacks(folder: Path, beats: dict[int, dict[str, Any]]) -> dict[int, str]:
    """Ask every rank of this node where it is, and read what it wrote."""
    for beat in beats.values():
        try:
            os.kill(beat["pid"], signal.SIGUSR1)
        except (ProcessLookupError, PermissionError):
            pass
    time.sleep(DUMP)
    found = {}
    for rank in beats:
        file = folder / f"stack{rank}.txt"
        found[rank] = file.read_text(errors="replace") if file.exists() else ""
    return found


def stop(agent: subprocess.Popen[bytes], beats: dict[int, dict[str, Any]]) -> None:
    """End the agent and its workers, by force where asking does not help."""
    if agent.poll() is None:
        agent.terminate()
        try:
            agent.wait(GRACE)
        except subprocess.TimeoutExpired:
            agent.kill()
            agent.wait()
    for beat in beats.values():
        try:
            if beat["phase"] != "done":
                os.kill(beat["pid"], signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def refusals(folder: Path) -> list[dict[str, Any]]:
    """What workers could not take, by rank."""
    return [json.loads(file.read_text()) for file in sorted(folder.glob("refused*.json"))]


def errors(folder: Path) -> list[dict[str, Any]]:
    """What workers raised, in the order of time."""
    found = [json.loads(file.read_text()) for file in folder.glob("error*.json")]
    return sorted(found, key=lambda entry: entry["time"])
