"""An existing Dask cluster: one task a row. How often a row may take its worker along is the scheduler's
setting (distributed.scheduler.allowed-failures)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from inspector.core.errors import InspectError
from inspector.regress.sweep.engines import CONNECT, Task, reachable, row, within


@contextmanager
def connect(address: str) -> Iterator[DaskCluster]:
    """A client of the scheduler at tcp://HOST:PORT; what it still has to do is cancelled at the end."""
    try:
        import distributed
    except ImportError as error:
        raise InspectError(
            "dask.distributed is not installed", "install it with: pip install 'torch-inspector[dask]'"
        ) from error
    reachable(address, "tcp://10.0.0.1:8786")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # the error that is raised says it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other versions: those that matter are compared, and refused
        client = within(
            2 * CONNECT, address, lambda: distributed.Client(address, timeout=CONNECT, set_as_default=False)
        )
    cluster = DaskCluster(distributed, client)
    try:
        yield cluster
    finally:
        client.cancel(list(cluster.left), force=True)
        client.close(CONNECT)


class DaskCluster:
    """See `Cluster`."""

    def __init__(self, distributed: Any, client: Any) -> None:
        self.distributed, self.client = distributed, client
        self.left: dict[Any, int] = {}

    def everywhere(self, function: Callable[[], Any]) -> list[Any]:
        return list(self.client.run(function).values())

    def submit(self, tasks: Sequence[Task]) -> None:
        run = uuid4().hex
        for place, task in enumerate(tasks):
            future = self.client.submit(row, *task, key=f"inspect-table-{run}-{place}", pure=False)
            self.left[future] = place

    def done(self, seconds: float) -> list[tuple[int, Any]]:
        first = self.distributed.client.FIRST_COMPLETED
        try:
            with self.client.as_current():
                ended = self.distributed.wait(list(self.left), timeout=seconds, return_when=first).done
        except TimeoutError:
            return []
        return [(self.left.pop(one), self._answer(one)) for one in ended]

    def _answer(self, one: Any) -> Any:
        try:
            return one.result()
        except self.distributed.KilledWorker:
            return None

    def workers(self) -> int:
        return len(self.client.scheduler_info()["workers"]) if self.client.status == "running" else 0
