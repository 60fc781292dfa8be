"""Copies of a model that train like the original, and comparison byte by byte."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from inspector.core.errors import InspectError, first_line
from inspector.tracing import _torch
from inspector.tracing.capture.modules import ModuleCall, module_calls, paths_of
from inspector.tracing.storage import storage_id
from inspector.tracing.subclass import PLAIN, parts, wraps


def replica(model: nn.Module) -> nn.Module:
    """A deep copy in which tensors that share a storage still do, and gradients come along.

    `copy.deepcopy` alone clones each Parameter for itself: a weight that is a view of another one
    would be cut loose, and a stale gradient would be lost.
    """
    memo: dict[int, Any] = {}
    storages: dict[int, torch.UntypedStorage] = {}
    for tensor in () if isinstance(model, torch.jit.ScriptModule) else _held(model):
        if id(tensor) not in memo:
            memo[id(tensor)] = _twin(tensor, storages)
    for tensor in (*model.parameters(), *model.buffers()):
        if is_lazy(tensor):
            memo[id(tensor)] = _lazy_twin(tensor)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise InspectError(
            f"the model cannot be copied: {first_line(error)}",
            "make copy.deepcopy(model) work, or use `verify=False` where there is one",
        ) from error


def _held(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors kept as plain attributes (`weight` under weight_norm)."""
    for module in model.modules():
        for registry in (_torch.parameters_of(module), _torch.buffers_of(module), module.__dict__):
            for value in registry.values():
                if isinstance(value, Tensor) and not is_lazy(value) and _plain(value):
                    yield value


def _plain(tensor: Tensor) -> bool:
    """Not a subclass with its own behaviour (quantized, distributed): deepcopy handles those."""
    if type(tensor) in PLAIN:
        return True
    copies = getattr(type(tensor), "__deepcopy__", None)
    own = copies not in (Tensor.__deepcopy__, nn.Parameter.__deepcopy__)
    return isinstance(tensor, (nn.Parameter, nn.Buffer)) and not own and not wraps(tensor)


def _twin(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    key = storage_id(tensor)
    if key is None:  # sparse tensors, subclasses without a storage
        return copy.deepcopy(tensor.detach()).requires_grad_(tensor.requires_grad and tensor.is_leaf)
    if key not in storages:
        storages[key] = tensor.untyped_storage().clone()
    data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    data.set_(storages[key], tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, nn.Parameter):  # the user's own class too
        twin: Tensor = _torch.make_subclass(type(tensor), data, tensor.requires_grad)
        twin.__dict__.update(tensor.__dict__)
    else:
        twin = data.requires_grad_(tensor.requires_grad and tensor.is_leaf)
    if tensor.is_leaf and tensor.grad is not None:
        twin.grad = tensor.grad.clone()
    return twin


def _lazy_twin(tensor: Tensor) -> Tensor:
    """deepcopy fails on lazy buffers."""
    place = {"device": tensor.device, "dtype": tensor.dtype}
    if isinstance(tensor, nn.Parameter):
        return UninitializedParameter(requires_grad=tensor.requires_grad, **place)  # type: ignore[arg-type]
    return UninitializedBuffer(requires_grad=tensor.requires_grad, **place)  # type: ignore[arg-type]


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Watch the original while its replica trains: a forward that is a closure, or a hook that holds the
    original, would train the wrong one. Raises InspectError then, with the gradients put back."""
    state = {name: (tensor, _torch.version_of(tensor), tensor.grad) for name, tensor in named_state(model)}
    running: list[str] = []

    def check(call: ModuleCall) -> None:
        raise _entangled(call.path)

    try:
        with module_calls(paths_of(model), check):
            yield
    finally:
        for name, (tensor, version, grad) in state.items():
            if tensor.grad is not grad or _torch.version_of(tensor) != version:
                running.append(name)
                tensor.grad = grad
    if running:
        raise _entangled(running[0])


def _entangled(name: str) -> InspectError:
    return InspectError(
        f"a copy of the model still uses {name or 'the root'} of the original: a forward or a hook is a"
        " closure over it",
        "make it a method of a module, or use `verify=False`",
    )


def named_state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, then every buffer, under every name that it has."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


@dataclass(frozen=True)
class Change:
    """How much a tensor moved: elements that differ, of how many, and the largest difference."""

    elements: int
    of: int
    largest: float | None

    def __str__(self) -> str:
        by = "" if self.largest is None else f", by up to {self.largest:.3g}"
        return f"{self.elements:,} of {self.of:,} elements{by}"


def change(before: Tensor, after: Tensor) -> Change | None:
    """The difference of two tensors, None when they are byte-identical (a NaN equals itself)."""
    if same(before, after):
        return None
    if before.shape != after.shape or before.dtype != after.dtype:
        return Change(after.numel(), after.numel(), None)
    if wraps(before) or before.layout is not torch.strided:
        return Change(int((raw(before) != raw(after)).sum()), after.numel(), None)
    wide = torch.complex128 if before.is_complex() else torch.float64
    distance = (after.detach().to(wide) - before.detach().to(wide)).abs()
    finite = distance[distance.isfinite()]
    item = before.element_size()
    differ = (raw(before).reshape(-1, item) != raw(after).reshape(-1, item)).any(dim=1)
    return Change(int(differ.sum()), after.numel(), float(finite.max()) if finite.numel() else None)


def same(before: Tensor, after: Tensor) -> bool:
    """Whether two tensors have the same dtype, shape and bytes."""
    alike = before.shape == after.shape and before.dtype == after.dtype
    return alike and torch.equal(raw(before), raw(after))


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, in the order of its elements: uint8 of shape (numel x item size,).

    Of one that is kept as others, the bytes of those in turn.
    """
    if wraps(tensor) or tensor.layout is not torch.strided:
        inner = parts(tensor)
        if inner[0] is not tensor:
            return torch.cat([raw(part) for part in inner])
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
