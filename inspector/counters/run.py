"""`inspect reconcile` from its start: the processes of the counters import torch beside this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.core.errors import InspectError
from inspector.core.forking import Nursery, nursery
from inspector.core.processes import installed_search
from inspector.counters import NAMES

if TYPE_CHECKING:
    from inspector.models import Model
    from inspector.reporting.report import Report

TIMEOUT = 600.0
"""Seconds that a counter may take by default."""


def reconcile(
    model: Model,
    inputs: Any = None,
    *,
    counters: Sequence[str] | None = None,
    table: str | Path | None = None,
    phase: str = "forward",
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    timeout: float = TIMEOUT,
    call: str | None = None,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Report:
    """Count `model` with every counter, and say where each differs from ours and why.

    A spec is counted by each counter in a process of its own, with `timeout` seconds, several side by side as
    processors and memory allow: their seconds are not those of a counter alone. An nn.Module is
    copied for each counter and stays untouched. `counters` chooses among inspector.counters.NAMES
    (`published` too); `table` is a CSV file with the columns model, input, macs, params; `call`
    is a method to run in place of the forward. `tell` hears which counters run, and the share that is done.
    """
    names = _chosen(counters)
    if not 0 < timeout < 1e9:
        raise InspectError(
            f"a time-out of {timeout:g} s makes no sense", "pass `timeout=` a number of seconds"
        )
    with _nursery(model) as forks:
        from inspector.counters.report import compared

        return compared(
            model, inputs, names, table=table, phase=phase, seed=seed, model_args=model_args,
            timeout=timeout, call=call, tell=tell, forks=forks,
        )  # fmt: skip


def _chosen(counters: Sequence[str] | None) -> list[str]:
    names = [*NAMES, "published"]
    for name in counters or ():
        if name not in names:
            raise InspectError(f"no counter is called {name!r}", f"use some of: {', '.join(names)}")
    wanted = names if not counters else ["ours", *counters]
    return [name for name in names if name in wanted]


@contextmanager
def _nursery(model: Model) -> Iterator[Nursery | None]:
    """What the counters of a spec are forked from; None for a live model, which is counted in here."""
    if not isinstance(model, str):
        yield None
        return
    source = model.partition(":")[0] if ":" in model else "torchvision"
    libraries = [source] if source in ("torchvision", "timm") else []
    with nursery("inspector.counters.isolate", *libraries, search=installed_search()) as forks:
        yield forks
