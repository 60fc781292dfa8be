"""Two machines: two network namespaces, one agent in each, and a training across them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent.parent
NAMES = (f"insp{os.getpid()}a", f"insp{os.getpid()}b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Two namespaces that reach each other by a cable of their own."""
    links = (f"va{os.getpid()}", f"vb{os.getpid()}")
    try:
        try:
            for name in NAMES:
                ip("netns", "add", name)
            ip(
                "link",
                "add",
                links[0],
                "netns",
                NAMES[0],
                "type",
                "veth",
                "peer",
                "name",
                links[1],
                "netns",
                NAMES[1],
            )
            for name, link, address in zip(NAMES, links, ADDRESSES):
                ip("-n", name, "addr", "add", f"{address}/24", "dev", link)
                ip("-n", name, "link", "set", link, "up")
                ip("-n", name, "link", "set", "lo", "up")
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            pytest.skip(f"network namespaces cannot be made here: {str(reason).strip()}")
        yield links
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_machines_train_together(machines: tuple[str, str]) -> None:
    processes = []
    for number, (name, link) in enumerate(zip(NAMES, machines)):
        words = [
            "ip", "netns", "exec", name, sys.executable, "-m", "inspector", "ddp",
            "tests.distributed.nets:Small",
            "--input", "4x3x8x8", "--data", "synthetic",
            "--batch", "4", "--steps", "6", "--set", "SOLVER.VALIDATE_EVERY", "3",
            "--device", "cpu", "--nproc", "1", "--nnodes", "2", "--node-rank", str(number),
            "--rdzv-endpoint", f"{ADDRESSES[0]}:29400", "--format", "json", "--deadline", "150",
        ]  # fmt: skip
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": link, "OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    ends = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [err[-2000:] for _, err in ends]
    reports = [json.loads(out) for out, _ in ends if out]
    assert len(reports) == 1  # the machine with rank 0 has it
    findings = {f["check"]: f["status"] for f in reports[0]["findings"]}
    assert reports[0]["verdict"] == "pass"
    assert reports[0]["environment"]["world_size"] == 2
    assert findings["parameters"] == findings["gradients"] == findings["resume"] == "pass"
