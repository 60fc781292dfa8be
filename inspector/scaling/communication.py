"""The collectives of a recorded step: which, over what, how many bytes.

`nbytes` is the whole tensor of a collective: what an all-gather gives, a reduce-scatter takes, an all-reduce
sums. `sent` is what each process sends for it at least, as rings do with p processes: (p - 1) / p of the
tensor for an all-gather or a reduce-scatter, twice that for an all-reduce (Patarasuk & Yuan, Bandwidth
optimal all-reduce algorithms for clusters of workstations, 2009), the whole for a send or a broadcast.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from inspector.core.errors import InspectError
from inspector.tracing import _torch
from inspector.tracing.capture.pricing import Call
from inspector.tracing.formulas.traffic import tensors

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "broadcast", "send", "receive")
POINT_TO_POINT = ("send", "receive")
_KIND = {
    "_allgather_base_": "all-gather",
    "allgather_": "all-gather",
    "allgather_into_tensor_coalesced_": "all-gather",
    "all_gather_into_tensor": "all-gather",
    "all_gather_into_tensor_out": "all-gather",
    "all_gather_into_tensor_coalesced": "all-gather",
    "_reduce_scatter_base_": "reduce-scatter",
    "reduce_scatter_": "reduce-scatter",
    "reduce_scatter_tensor": "reduce-scatter",
    "reduce_scatter_tensor_coalesced": "reduce-scatter",
    "reduce_scatter_tensor_out": "reduce-scatter",
    "allreduce_": "all-reduce",
    "allreduce_coalesced_": "all-reduce",
    "all_reduce": "all-reduce",
    "all_reduce_": "all-reduce",
    "all_reduce_coalesced": "all-reduce",
    "alltoall_base_": "all-to-all",
    "all_to_all_single": "all-to-all",
    "broadcast_": "broadcast",
    "broadcast": "broadcast",
    "send": "send",
    "recv_": "receive",
}
_SPACES = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "_dtensor")
_WAITS = ("wait_tensor", "_wrap_tensor_autograd", "wait_tensors")


@dataclass(frozen=True)
class Collective:
    """One collective of one process. `over` is the dimension of the mesh, `size` its processes, `at` the
    index of the operator in the record, `peer` whom a tensor is sent to or received from: its number among
    the processes."""

    kind: str
    over: str
    size: int
    module: str
    phase: str
    nbytes: int
    at: int
    peer: int | None = None

    @property
    def sent(self) -> int:
        return ring(self.kind, self.nbytes, self.size)


def ring(kind: str, nbytes: int, size: int) -> int:
    """Bytes that each of `size` processes sends for a collective on a tensor of `nbytes`."""
    if size == 1 or kind == "receive":
        return 0
    if kind in ("send", "broadcast"):
        return nbytes
    times = 2 if kind == "all-reduce" else 1
    return -(-times * nbytes * (size - 1) // size)


def collectives(calls: Sequence[Call], groups: Mapping[str, str]) -> list[Collective]:
    """The collectives among `calls`. `groups` names the dimension of each process group. Raises InspectError
    for one that is not known: its bytes would be missing."""
    return [
        _collective(call, index, groups)
        for index, call in enumerate(calls)
        if call.operator.name.partition(".")[0] in _SPACES and not call.operator.name.endswith(_WAITS)
    ]


def _collective(call: Call, index: int, groups: Mapping[str, str]) -> Collective:
    name = call.operator.name.partition(".")[2]
    kind = _KIND.get(name)
    group = _group((*call.args, *call.kwargs.values()))
    if kind is None or group is None:
        raise InspectError(
            f"the step runs {call.operator.name}, whose communication is not counted", "use another layout"
        )
    over = groups.get(group.group_name, "world")
    nbytes = max(sum(spec.nbytes for spec in tensors(arg)) for arg in (*call.args, call.result))
    # of send and recv_: tensors, group, rank in the group, tag
    peer = int(call.args[2]) if kind in POINT_TO_POINT else None
    return Collective(kind, over, group.size(), call.path, call.phase, nbytes, index, peer)


def _group(values: Iterable[Any]) -> Any:
    """The process group among the arguments of a collective: an object of TorchScript, or its name."""
    for value in values:
        if type(value).__name__ == "ScriptObject":
            try:
                return dist.ProcessGroup.unbox(value)
            except (RuntimeError, TypeError):  # the operation that reduces
                continue
    names = [value for value in values if isinstance(value, str)]
    return _torch.group_by_name(names[-1]) if names else None
