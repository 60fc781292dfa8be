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
    " communication; `inspector.scale` simulates what one process holds and sends"
)
_WHOLE = (
    "operators on DTensors are counted whole; their bytes, and all that runs on local tensors, are this"
    " process's part"
)


def without_hooks(module: nn.Module) -> bool:
    """Take the hooks of `fully_shard` from a module, True where there were any. Call inside `preserved`."""
    taken = False
    for hooks in (_torch.pre_hooks_of(module), _torch.forward_hooks_of(module)):
        for key in [key for key, hook in hooks.items() if _gathers(hook)] if hooks else ():
            del hooks[key]
            taken = True
    return taken


def notes(model: nn.Module, gathered: bool) -> tuple[str, ...]:
    """What a reader must know of a model with parameters that may be spread over processes."""
    if gathered:
        return (_GATHERED,)
    kind = _dtensor()
    held = (parameter for parameter in model.parameters() if kind and isinstance(parameter, kind))
    return (_WHOLE,) if any(parameter.to_local().shape != parameter.shape for parameter in held) else ()


def _dtensor() -> Any:
    """The class, None where nobody has loaded it."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)


def _gathers(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(_HOOKS)


def whole(tensor: Tensor, device: str) -> Tensor:
    """The whole parameter of which a DTensor holds this process's part; others as they are.

    Raises InspectError where its values are in other processes and `device` needs them."""
    kind = _dtensor()
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
