"""The memory that a step uses: torch's own counters on an accelerator, its memory events on a CPU.

On a CPU the blocks that a kernel takes for itself and gives back before it returns (oneDNN's reordered
weights, reduction buffers) are separated from tensors with the profiler's tree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from inspector.core.collection import paused
from inspector.core.errors import InspectError
from inspector.tracing import _torch


@dataclass
class Peak:
    """Bytes at the peak above what was held before: of tensors alone, and `whole` with what CPU kernels take
    for themselves; on CUDA the two are one. `reserved` is what CUDA's caching allocator took for them."""

    tensors: int = 0
    whole: int = 0
    reserved: int | None = None


@contextmanager
def metered(device: str, operators: Collection[str] = ()) -> Iterator[Peak]:
    """The peak of what runs inside, filled in at the end.

    operators: names of a trace ("aten.addmm"): a block that is taken and given back inside one of them
        belongs to its kernel, on a CPU. There the release of what was there before does not count.

    Raises InspectError where nothing counts (see `uncounted`).
    """
    peak = Peak()
    if uncounted(device):
        raise InspectError(uncounted(device), "measure on the CPU")
    memory = counters(device)
    if memory is not None:
        memory.synchronize(device)
        memory.reset_peak_memory_stats(device)
        allocated, reserved = memory.memory_allocated(device), memory.memory_reserved(device)
        yield peak
        memory.synchronize(device)
        peak.tensors = peak.whole = memory.max_memory_allocated(device) - allocated
        peak.reserved = memory.max_memory_reserved(device) - reserved
        return
    with paused(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    tree = profiler.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    names = {name.replace(".", "::") for name in operators}
    _count(peak, sorted((event for root in tree for event in _events(root, None, names)), key=_time))


def counters(device: str) -> Any:
    """Where torch counts the memory of an accelerator: torch.cuda, torch.accelerator; None where it keeps
    no peak (Apple's GPUs, torch before 2.9) and on a CPU."""
    kind = device.partition(":")[0]
    if kind == "cuda":
        return torch.cuda
    counted = kind not in ("cpu", "meta", "mps") and hasattr(torch.accelerator, "max_memory_allocated")
    return torch.accelerator if counted else None


def uncounted(device: str) -> str:
    """Why the peak of memory on `device` cannot be told; "" where it can."""
    if device.startswith("cpu") or counters(device) is not None:
        return ""
    return f"this torch keeps no peak of memory on {device}"


class _Event(NamedTuple):
    time: int
    nbytes: int
    address: int
    kernel: Any


def _time(event: _Event) -> int:
    return event.time


def _count(peak: Peak, events: list[_Event]) -> None:
    own = _kernels_own(events)
    tensors = whole = 0
    made: set[int] = set()
    for number, event in enumerate(events):
        if event.nbytes > 0:
            made.add(event.address)
        elif event.address not in made:  # it was there before; the profiler tells of what it saw made earlier
            continue
        else:
            made.remove(event.address)
        whole += event.nbytes
        peak.whole = max(peak.whole, whole)
        if number not in own:
            tensors += event.nbytes
            peak.tensors = max(peak.tensors, tensors)


def _events(node: Any, kernel: Any, names: set[str]) -> Iterator[_Event]:
    """Allocations and releases below `node`, each with the outermost known operator around it."""
    kind, extra = node.typed
    if kind == _torch.EventType.Allocation:
        yield _Event(node.start_time_ns, extra.alloc_size, extra.ptr, kernel)
        return
    if kernel is None and kind == _torch.EventType.TorchOp and node.name in names:
        kernel = node
    for child in node.children:
        yield from _events(child, kernel, names)


def _kernels_own(events: list[_Event]) -> set[int]:
    """Indices of the events of blocks that live within one operator."""
    taken: dict[int, int] = {}
    own: set[int] = set()
    for number, event in enumerate(events):
        if event.nbytes > 0:
            taken[event.address] = number
        elif event.address in taken:
            start = taken.pop(event.address)
            if event.kernel is not None and events[start].kernel is event.kernel:
                own |= {start, number}
    return own
