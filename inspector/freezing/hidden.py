"""Tensors of a model that it does not register: `model.parameters()` lacks them, freezing passes them by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from inspector.freezing.plan import Plan
from inspector.models.replica import named_state
from inspector.tracing.capture.modules import paths_of

DEPTH = 4
_FOREIGN = ("builtins", "types", "weakref", "torch.optim", "logging")
_REGISTRIES = ("_parameters", "_buffers", "_modules")


def hidden(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Leaves that require grad, kept as a plain attribute or in a list, dict, tuple or module that is: the
    path of the module that holds one, what to call it, and the tensor. Each once."""
    seen = {id(tensor) for _, tensor in named_state(model)}
    registered = set(paths_of(model))
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name in _REGISTRIES:
                continue
            for label, tensor in _tensors(value, name, registered, DEPTH):
                if id(tensor) not in seen and tensor.requires_grad and tensor.is_leaf:
                    seen.add(id(tensor))
                    yield path, f"{path}.{label}" if path else label, tensor


def _tensors(value: Any, label: str, registered: set[int], depth: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield label, value
    elif isinstance(value, nn.Module):
        if id(value) not in registered:
            yield from ((f"{label}.{name}", tensor) for name, tensor in value.named_parameters())
    elif depth and isinstance(value, (list, tuple)):
        for number, entry in enumerate(value):
            yield from _tensors(entry, f"{label}[{number}]", registered, depth - 1)
    elif depth and isinstance(value, dict):
        for key, entry in value.items():
            yield from _tensors(entry, f"{label}[{key!r}]", registered, depth - 1)
    elif depth and type(value).__module__ not in _FOREIGN and not callable(value):
        for name, entry in getattr(value, "__dict__", {}).items():
            yield from _tensors(entry, f"{label}.{name}", registered, depth - 1)


def frozen_owner(path: str, plan: Plan) -> bool:
    """Whether the module that holds a tensor is frozen: as a whole, or the parameters of its own."""
    if path in plan.modules:
        return True
    own = [name for name in (*plan.parameters, *plan.trainable) if name.rpartition(".")[0] == path]
    return bool(own) and all(name in plan.parameters for name in own)
