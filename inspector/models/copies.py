"""Copies of what a caller gave for a call: nothing that the model does to them reaches the originals."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from inspector.core.errors import InspectError, first_line


def copied(values: Any, device: str) -> Any:
    """A deep copy of `values` with every tensor in it on `device` (without values on meta).

    Tensors that are the same object stay the same, leaves stay leaves, and a tensor with a history keeps
    one, without its parents. Raises InspectError for what cannot be copied.
    """
    try:
        with _Moving(device):
            return copy.deepcopy(values, {id(one): _twin(one) for one in _generators(values)})
    except (RuntimeError, MemoryError):
        raise
    except Exception as error:
        raise InspectError(
            f"an input cannot be copied, and what you pass is never changed: {first_line(error)}",
            "pass what copy.deepcopy can copy: a list in place of an iterator, a path in place of a file",
        ) from error


class _Moving(TorchFunctionMode):
    """Answers `copy.deepcopy` of a tensor, at any depth of any object."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is Tensor.__deepcopy__:
            return moved(args[0], self.device)
        return func(*args, **(kwargs or {}))


def moved(tensor: Tensor, device: str) -> Tensor:
    """A copy on `device` that requires a gradient where the original does, a leaf where that is one."""
    values = tensor.detach().to(device)
    if values.device.type != "meta" and _shared(values, tensor):
        values = values.clone()
    values.requires_grad_(tensor.requires_grad)
    if tensor.is_leaf:
        return values
    with torch.enable_grad():
        return values.clone()


def _shared(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have one memory; of tensors without a storage of their own, supposed."""
    try:
        return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return True


def _generators(values: Any) -> Iterator[torch.Generator]:
    """The random generators among containers; deepcopy does not know them."""
    if isinstance(values, torch.Generator):
        yield values
    elif isinstance(values, (list, tuple, Mapping)):
        for entry in values.values() if isinstance(values, Mapping) else values:
            yield from _generators(entry)


def _twin(generator: torch.Generator) -> torch.Generator:
    twin = torch.Generator(generator.device)
    twin.set_state(generator.get_state())
    return twin
