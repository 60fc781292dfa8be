"""Sharded training by torch's FSDP2 (`fully_shard`): the wrap, gradients that are kept back, whole values of
what the ranks hold in shards, and state dicts.

A module that is wrapped stays itself: its parameters become DTensors, of which a rank holds a part of the
rows, and so do their gradients and what the optimizer keeps. Buffers are left as they are: nothing
synchronises them. Loaded where a run is sharded only: its import costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from inspector.core.errors import InspectError, first_line
from inspector.distributed.digest import is_sharded, sums, whole
from inspector.distributed.group import gathered
from inspector.models.units import units
from inspector.tracing._torch import DispatchMode

FULL = StateDictOptions(full_state_dict=True)
"""Whole tensors on every rank, by the names of parameters."""
REDUCTIONS = ("_reduce_scatter_base_", "reduce_scatter_", "allreduce_")
"""The collectives that add up gradients, as torch's dispatcher names them."""


def shard(model: nn.Module, device: str) -> nn.Module:
    """`fully_shard` each unit of `model` and then the rest, over all ranks; gives `model` itself.

    Parameters are sharded again after a forward, the root's too, so that they always are when no pass runs.
    Units that share a parameter with another part of the model are left to the root: FSDP2 keeps a tied
    weight in one unit. Where the backend adds up in place of averaging, FSDP2 is told to divide. Raises
    InspectError where torch refuses the model.
    """
    mesh = init_device_mesh(torch.device(device).type, (dist.get_world_size(),))
    try:
        for path in alone(model, units(model)):
            fully_shard(model.get_submodule(path), mesh=mesh, reshard_after_forward=True)
        fully_shard(model, mesh=mesh, reshard_after_forward=True)
    except InspectError:
        raise
    except (RuntimeError, ValueError, NotImplementedError, AssertionError, TypeError) as error:
        raise InspectError(
            f"FSDP2 refuses the model: {first_line(error)}", 'train it with `shard="ddp"`'
        ) from error
    if adds_for_average(device):
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
    return model


def adds_for_average(device: str) -> bool:
    """Whether a reduce-scatter that asks for the mean gives the sum, as gloo's does in torch 2.8
    (https://github.com/pytorch/pytorch/issues/162338). FSDP2 asks so. Collective."""
    world = dist.get_world_size()
    ones, mean = torch.ones(world, device=device), torch.ones(1, device=device)
    if world > 1:
        dist.reduce_scatter_tensor(mean, ones, dist.ReduceOp.AVG)
    return float(mean) > 1.0


def alone(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Of `paths` those of modules that share no parameter with a module outside of them."""
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    tied = [names for names in owners.values() if len(names) > 1]

    def whole(path: str) -> bool:
        return all(len({name.startswith(f"{path}.") for name in names}) == 1 for names in tied)

    return [path for path in paths if whole(path)]


def sharded_units(model: nn.Module) -> list[str]:
    """The paths of the modules that FSDP2 wraps; "" is the root."""
    return [path for path, module in model.named_modules() if isinstance(module, FSDPModule)]


def reshard(model: nn.Module) -> None:
    """Free what a forward without a backward may have left gathered (FSDP2's default for the root)."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def unreduced(model: FSDPModule) -> Iterator[None]:
    """Keep gradients of backward passes inside on their rank; the next one outside reduces their sum."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


class Reduced(DispatchMode):
    """Counts the elements of gradients that go into reductions; `elements` is the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func.name().partition("::")
        if space == "c10d" and name.partition(".")[0] in REDUCTIONS:
            whole = args[0] if name.startswith("allreduce_") else args[1]
            self.elements += _numel(whole)
        return func(*args, **(kwargs or {}))


def _numel(value: Any) -> int:
    return value.numel() if isinstance(value, Tensor) else sum(map(_numel, value))


def due(model: nn.Module) -> int:
    """The elements that one reduction of every gradient takes: FSDP2 pads the rows of a parameter to a
    multiple of the ranks."""
    world, total = dist.get_world_size(), 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        if is_sharded(parameter):
            rows = parameter.shape[0]
            total += -(-rows // world) * world * (parameter.numel() // rows if rows else 0)
        else:
            total += parameter.numel()
    return total


def refresh(plain: nn.Module, model: nn.Module) -> None:
    """Give `plain`, an unsharded copy of `model`, the whole values, the modes and the frozen parameters that
    it has now. Collective."""
    reshard(model)
    own = dict(plain.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            own[name].copy_(whole(parameter))
            own[name].requires_grad_(parameter.requires_grad)
        held = dict(plain.named_buffers())
        for name, buffer in model.named_buffers():
            if name in held:
                held[name].copy_(buffer)
    modes = dict(plain.named_modules())
    for path, module in model.named_modules():
        modes[path].training = module.training


def broadcast_buffers(model: nn.Module) -> list[str]:
    """Give rank 0's buffers to all ranks, which FSDP2 does not do; the names of those that differed before.
    Collective."""
    buffers = dict(model.named_buffers())
    rows = gathered(sums(buffers.values()).tolist())
    drifted = [name for name, *values in zip(buffers, *rows) if len(set(values)) > 1]
    with torch.no_grad():
        for buffer in buffers.values():
            dist.broadcast(buffer, src=0)
    return drifted


def state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The whole state of both, on every rank, by the names of parameters; buffers are this rank's.
    Collective."""
    reshard(model)
    return {
        "model": get_model_state_dict(model, options=FULL),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=FULL),
    }


def load(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Take over what `state` gave. Collective."""
    set_model_state_dict(model, state["model"], options=FULL)
    saved = state["optimizer"]
    if not any(isinstance(value, Tensor) for entry in saved["state"].values() for value in entry.values()):
        for group, values in zip(optimizer.param_groups, saved["param_groups"], strict=True):
            group.update({key: value for key, value in values.items() if key != "params"})
        return  # an optimizer without a state, such as SGD without momentum: torch's function raises there
    set_optimizer_state_dict(model, optimizer, saved, options=FULL)
