"""A model on a mesh: torch's own tensor parallelism, FSDP2 and DDP, applied in the order that they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ParallelStyle, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from inspector.core.errors import InspectError, first_line
from inspector.models.units import units
from inspector.scaling import sequence
from inspector.scaling.layout import Layout
from inspector.scaling.tensor_parallel import names, own_plan, styles
from inspector.tracing import _torch


@dataclass(frozen=True)
class Names:
    """What is done to which module: styles of tensor parallelism, and units of FSDP2, inner ones first."""

    styles: Mapping[str, ParallelStyle]
    units: Sequence[str]

    @staticmethod
    def of(model: nn.Module, layout: Layout, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Names:
        """Those of a whole model, on meta with its inputs. Raises InspectError for what cannot be split as it
        is asked."""
        chosen: dict[str, ParallelStyle] = {}
        if layout.tensor_parallel > 1:
            plan = layout.plan if layout.plan is not None else own_plan(model)
            chosen = styles(model, plan, layout.tensor_parallel)
            if layout.sequence:
                named = names(model, plan, layout.tensor_parallel)
                chosen = sequence.styles(model, named, layout.tensor_parallel, args, kwargs)
        return Names(chosen, units(model, layout.wrap) if layout.fully_sharded else ())

    def of_part(self, model: nn.Module) -> Names:
        """Those of what a stage of a pipeline keeps of the model."""
        held = {path for path, part in model.named_modules() if next(part.parameters(), None) is not None}
        kept = {path: style for path, style in self.styles.items() if path in held}
        return Names(kept, [path for path in self.units if path in held])


def shard(model: nn.Module, layout: Layout, mesh: DeviceMesh, names: Names) -> None:
    """Split `model` over `mesh` in place, but for DDP, which wraps a model that has values."""
    if layout.tensor_parallel > 1:
        refusing("tensor parallelism", parallelize_module, model, mesh["tp"], dict(names.styles))
    if layout.fully_sharded:
        refusing("FSDP2", _fully_shard, model, layout, mesh, names.units)


def _fully_shard(model: nn.Module, layout: Layout, mesh: DeviceMesh, paths: Sequence[str]) -> None:
    policy = MixedPrecisionPolicy(
        param_dtype=_dtype(layout.param_dtype), reduce_dtype=_dtype(layout.reduce_dtype)
    )
    over = mesh["replicate", "dp"] if layout.shard == "hsdp" else mesh["dp"]
    more: dict[str, Any] = {"mesh": over, "mp_policy": policy}
    if layout.offload:  # pinned memory is the host's affair
        more["offload_policy"] = CPUOffloadPolicy(pin_memory=False)
    reshard = layout.shard != "zero2" and layout.reshard
    with _cut_when_asked():
        for path in paths:
            fully_shard(model.get_submodule(path), reshard_after_forward=reshard, **more)
        # torch's own choice for the root: kept from the forward to the backward, which needs it at once
        fully_shard(model, reshard_after_forward=False, **more)


class _Chunks:
    """The parts of a tensor, as `torch.chunk` cuts them, and empty ones up to `count`; each is made when it
    is asked for: a rank of thousands looks at two of them."""

    def __init__(self, tensor: torch.Tensor, count: int, dim: int) -> None:
        self._tensor, self._dim = tensor, dim
        self._size = tensor.size(dim)
        self._step = -(-self._size // count)

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self._step
        if start >= self._size:
            return self._tensor.new_empty(0)
        return self._tensor.narrow(self._dim, start, min(self._step, self._size - start))


@contextmanager
def _cut_when_asked() -> Iterator[None]:
    kept = _torch.fsdp_parameters
    original = getattr(kept, _torch.CHUNKS, None)

    def chunks(tensor: torch.Tensor, num_chunks: int, dim: int) -> Any:
        cut = _Chunks if tensor.size(dim) else original
        return cut(tensor, num_chunks, dim)  # type: ignore[misc]

    if original is not None:
        setattr(kept, _torch.CHUNKS, chunks)
    try:
        yield
    finally:
        if original is not None:
            setattr(kept, _torch.CHUNKS, original)


def replicated(model: nn.Module, mesh: DeviceMesh) -> Any:
    """The model under DDP, which does not compare or send the parameters at its start."""
    return refusing(
        "DDP", DistributedDataParallel, model, process_group=mesh.get_group("dp"), init_sync=False
    )


def materialise(model: nn.Module, device: str = "cpu") -> None:
    """`model.to_empty` that keeps tied parameters tied."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def empty(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in made:
            twin = torch.empty_like(tensor, device=device)
            if isinstance(tensor, nn.Parameter):
                twin = nn.Parameter(twin, requires_grad=tensor.requires_grad)
            made[id(tensor)] = tensor, twin
        return made[id(tensor)][1]

    for registry in _registries(model):
        for name, tensor in registry.items():
            if tensor is not None:
                registry[name] = empty(tensor)


def _registries(model: nn.Module) -> Iterator[dict[str, Any]]:
    for module in model.modules():
        yield _torch.parameters_of(module)
        yield _torch.buffers_of(module)


def _dtype(name: str | None) -> torch.dtype | None:
    return getattr(torch, name) if name else None


def refusing(what: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    """What torch says against a model becomes an InspectError."""
    try:
        return function(*args, **kwargs)
    except InspectError:
        raise
    except (RuntimeError, ValueError, NotImplementedError, AssertionError, TypeError) as error:
        raise InspectError(
            f"{what} refuses the model: {first_line(error)}", "choose another layout for this model"
        ) from error
