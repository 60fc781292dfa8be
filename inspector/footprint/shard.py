"""An estimate of the peak of each of N processes, from the peak of one. Stated, not simulated.

DDP keeps the model whole and adds buckets of the gradients' size (`gradient_as_bucket_view=False`, its
default). FSDP with full sharding keeps 1/N of parameters, gradients, master weights and optimizer state, and
holds two gathered units at a time: the one that runs and the one that is prefetched. A unit is the
largest module of a list of modules, else the largest child of the model. Activations are those of one
process's own batch.
"""

from __future__ import annotations

from collections import Counter

from inspector.footprint.step import Memory
from inspector.tracing.record import Trace

KINDS = ("ddp", "fsdp")
_SHARDED = ("parameters", "gradients", "master weights", "optimizer state")


def estimate(trace: Trace, memory: Memory, world_size: int, kind: str) -> dict[str, int]:
    """Terms of the estimate in bytes; their sum is the peak of one process."""
    sums = memory.categories
    if kind == "ddp":
        buckets = sum(storage.nbytes for storage in trace.storages if storage.role == "gradient")
        return {**sums, "gradient buckets": buckets}
    terms = {name: -(-n // world_size) if name in _SHARDED else n for name, n in sums.items()}
    return {**terms, "gathered units": 2 * _unit(trace) if world_size > 1 else 0}


def _unit(trace: Trace) -> int:
    """Bytes of the parameters of the largest unit."""
    inside: Counter[str] = Counter()
    for storage in trace.storages:
        if storage.role in ("parameter", "packing"):
            parts = storage.module.split(".")
            for depth in range(1, len(parts) + 1):
                inside[".".join(parts[:depth])] += storage.nbytes
    listed = [size for path, size in inside.items() if path.rpartition(".")[2].isdigit()]
    children = [size for path, size in inside.items() if "." not in path]
    return max(listed or children, default=0)
