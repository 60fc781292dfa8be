"""The process group: joining it, and values of all ranks."""

from __future__ import annotations

import ctypes
import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from inspector.distributed.job import Place


def connect(place: Place, backend: str, seconds: float) -> None:
    """Join the process group, through a store of this start: one that a start which died has
    used breaks gloo's full mesh half of the time. A GPU becomes this process's own first: collectives of
    objects, random states and synchronising go to the current device."""
    if place.device.startswith("cuda"):
        torch.cuda.set_device(place.device)
    environment = os.environ
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    timeout = timedelta(seconds=seconds)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        place.world,
        is_master=place.rank == 0 and not shared,
        timeout=timeout,
    )
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"inspector/{place.attempt}", store),  # type: ignore[attr-defined]
        rank=place.rank,
        world_size=place.world,
        timeout=timeout,
        device_id=torch.device(place.device) if backend == "nccl" else None,
    )
    _never_free(dist.group.WORLD)


def _never_free(group: Any) -> None:
    """Freeing a gloo group can wait forever: Python holds its lock in the destructor, which joins a thread
    that waits for this lock to free the tensors of the last collective (seen with torch 2.8)."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, on every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
