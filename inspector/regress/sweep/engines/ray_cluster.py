"""An existing Ray cluster: one task a row, which needs one CPU."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from inspector.core.errors import InspectError
from inspector.regress.sweep.engines import Task, reachable, row, unreachable, within

JOIN = 15.0
"""Seconds that a Ray at the address has to take this process in."""


@contextmanager
def connect(address: str) -> Iterator[RayCluster]:
    """Join the cluster at HOST:PORT, ray://HOST:PORT or "auto"; one that this process has joined is used."""
    try:
        import ray
    except ImportError as error:
        raise InspectError(
            "ray is not installed", "install it with: pip install 'torch-inspector[ray]'"
        ) from error
    if ray.is_initialized():
        yield RayCluster(ray)
        return
    if address != "auto":
        reachable(address, "10.0.0.1:6379")
        if "://" not in address:
            _healthy(address)
    within(JOIN, address, lambda: ray.init(address=address, log_to_driver=False, logging_level="ERROR"))
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()


def _healthy(address: str) -> None:
    """Raise InspectError unless a Ray says that it is well. Asked in another process: `ray.init` would not
    return where another service listens, and write to standard error for as long as this process lives."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(words, capture_output=True, timeout=JOIN, check=False)
    except subprocess.TimeoutExpired as error:
        raise unreachable(address, f"what listens there has not answered within {JOIN:.0f} s") from error
    if done.returncode:
        raise unreachable(address, "what listens there is no Ray, or one that is not well")


class RayCluster:
    """See `Cluster`."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.left: dict[Any, int] = {}

    def everywhere(self, function: Callable[[], Any]) -> list[Any]:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        remote = self.ray.remote(num_cpus=0)(function)
        here = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in self._nodes()]
        answers = [remote.options(scheduling_strategy=place).remote() for place in here]
        return list(self.ray.get(answers))

    def submit(self, tasks: Sequence[Task]) -> None:
        remote = self.ray.remote(num_cpus=1, max_retries=0)(row)
        self.left = {remote.remote(*task): place for place, task in enumerate(tasks)}

    def done(self, seconds: float) -> list[tuple[int, Any]]:
        ended, _ = self.ray.wait(list(self.left), num_returns=1, timeout=seconds)
        return [(self.left.pop(one), self._answer(one)) for one in ended]

    def _answer(self, one: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(one)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError, errors.NodeDiedError):
            return None

    def workers(self) -> int:
        return len(self._nodes())

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
