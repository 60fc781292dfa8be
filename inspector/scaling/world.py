"""A process group of any size in one process: nothing is sent, every collective is there to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from inspector.core.errors import InspectError
from inspector.scaling.layout import Layout
from inspector.tracing import _torch
from inspector.tracing._torch import DispatchMode, tree_leaves

_BUSY = "this process has a process group of its own"


@contextmanager
def fake_world(layout: Layout, rank: int) -> Iterator[DeviceMesh]:
    """The mesh of `layout` as `rank` sees it, on a fake default process group, which is gone afterwards.

    Raises InspectError where this process has a default group already.
    """
    refuse_busy()
    _torch.prepare_collectives()
    dist.init_process_group("fake", rank=rank, world_size=layout.world_size, store=_torch.FakeStore())
    try:
        mesh = init_device_mesh("cpu", tuple(layout.mesh.values()), mesh_dim_names=tuple(layout.mesh))
        yield mesh
    finally:
        dist.destroy_process_group()


def refuse_busy() -> None:
    if dist.is_initialized():
        raise InspectError(_BUSY, "name the model by a spec: it is then simulated in another process")


def sizes(mesh: DeviceMesh) -> dict[str, str]:
    """The dimension of the mesh of each process group, by the group's name; "" is the whole world."""
    whole: Any = dist.group.WORLD
    names = {str(mesh.get_group(name).group_name): name for name in mesh.mesh_dim_names or ()}
    return {str(whole.group_name): "world", **names}


class RealIndices(DispatchMode):
    """Small integers that C++ reads have values: DDP counts its buckets on such a tensor."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        fake = any(isinstance(tensor, _torch.FakeTensor) for tensor in tensors)
        if fake or (not tensors and kwargs.get("dtype") is not torch.int32):
            return func(*args, **kwargs)
        with _torch.unseen():
            return func(*args, **kwargs)
