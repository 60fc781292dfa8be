"""FSDP2: a model of which each process holds a part of every parameter.

Its hooks gather the parameters before a module runs. In a pass they would wait for the other processes and
write into the model's own memory. The pass runs without them, on whole parameters, which is what each process
computes.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.tracing import _torch

_HOOKS = "torch.distributed.fsdp"
_GATHERED = (
    "FSDP2 is counted as what each process computes: on whole parameters, in their own dtype, without"
    " communication"
)
_WHOLE = (
    "operators on DTensors are counted whole; their bytes, and all that runs on local tensors, are this"
    " process's part"
)


def without_hooks(model: nn.Module) -> bool:
    """Take the hooks of `fully_shard` away, True where there were any. Call inside `preserved`."""
    taken = False
    for module in model.modules():
        for hooks in (_torch.pre_hooks_of(module), _torch.forward_hooks_of(module)):
            for key in [key for key, hook in hooks.items() if _gathers(hook)] if hooks else ():
                del hooks[key]
                taken = True
    return taken


def notes(model: nn.Module, gathered: bool) -> tuple[str, ...]:
    """What a reader must know of a model that is spread over processes."""
    spread = any(_is_sharded(parameter) for parameter in model.parameters())
    return (_GATHERED,) if gathered else (_WHOLE,) if spread else ()


def _is_sharded(tensor: Any) -> bool:
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind) and tensor.to_local().shape != tensor.shape


def _gathers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(_HOOKS)


def whole(tensor: Tensor, device: str) -> Tensor:
    """The whole parameter of which a DTensor holds this process's part; others as they are.

    Raises InspectError where its values are in other processes and `device` needs them."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    if kind is None or not isinstance(tensor, kind):
        return tensor
    if device == "meta":
        data = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    elif tensor.device_mesh.size() == 1:  # type: ignore[attr-defined]
        data = tensor.detach().to_local()  # type: ignore[attr-defined]
    else:
        raise InspectError(
            f"each process holds a part of the parameters, so that the model cannot run on {device} in one",
            "count it before fully_shard(), or on meta",
        )
    return nn.Parameter(data, requires_grad=tensor.requires_grad)
