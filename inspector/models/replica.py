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
from inspector.models.carry import Carrier
from inspector.tracing import _torch
from inspector.tracing.capture.modules import ModuleCall, module_calls, paths_of
from inspector.tracing.storage import storage_id
from inspector.tracing.subclass import PLAIN, parts, wraps


@dataclass(frozen=True)
class Replica:
    """A copy of a model. `carrier` finds the copy's own for anything of the original; `lost` says, by the
    name of a parameter or module, why its hook is missing on the copy."""

    model: nn.Module
    carrier: Carrier
    lost: dict[str, str]


def replica(model: nn.Module) -> nn.Module:
    """A deep copy in which tensors that share memory still do, and gradients and hooks come along.

    `copy.deepcopy` alone clones each Parameter for itself: a weight that is a view of another one
    would be cut loose, a stale gradient lost, and a hook that is a closure would change the original.
    """
    return duplicate(model).model


def duplicate(model: nn.Module) -> Replica:
    """`replica`, with what it takes to copy more, such as an optimizer."""
    memo: dict[int, Any] = {}
    scripted = isinstance(model, torch.jit.ScriptModule)
    held = [] if scripted else list(_held(model))
    memories = _Memories(held)
    for tensor in held:
        if id(tensor) not in memo:
            memo[id(tensor)] = _twin(tensor, memories)
    for tensor in (*model.parameters(), *model.buffers()):
        if is_lazy(tensor):
            memo[id(tensor)] = _lazy_twin(tensor)
    carrier = Carrier(model, memo, lambda tensor: _twin(tensor, memories) if tensor in memories else None)
    for module in () if scripted else model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                carrier.reaches(value)
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise InspectError(
            f"the model cannot be copied: {first_line(error)}",
            "make copy.deepcopy(model) work, or use `verify=False` where there is one",
        ) from error
    carrier.fill()
    lost = {} if scripted else {**_dropped(copied, carrier), **_hooked(model, copied, carrier)}
    return Replica(copied, carrier, lost)


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


class _Memories:
    """The memory of some tensors, and its copy, made when first asked for. Storages that overlap (one array,
    wrapped twice) are one memory."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.places: dict[int, tuple[int, int]] = {}  # storage: where it starts, and its memory's number
        self.wholes: list[list[torch.UntypedStorage]] = []
        self.copies: dict[int, torch.UntypedStorage] = {}
        keys = [(storage_id(tensor), tensor) for tensor in tensors]
        storages = {key: tensor.untyped_storage() for key, tensor in keys if key is not None}
        end, device = 0, ""
        for key, storage in sorted(storages.items(), key=lambda entry: _address(entry[1])):
            where, start = _address(storage)
            if not self.wholes or not start or where != device or start >= end:
                self.wholes.append([])
                end = 0
            self.wholes[-1].append(storage)
            self.places[key] = (start, len(self.wholes) - 1)
            device, end = where, max(end, start + storage.nbytes())

    def __contains__(self, tensor: Tensor) -> bool:
        return type(tensor) in PLAIN and storage_id(tensor) in self.places

    def twin(self, tensor: Tensor) -> Tensor | None:
        """A tensor in the copied memory, at the same place in it."""
        key = storage_id(tensor)
        if key is None or key not in self.places:
            return None
        start, number = self.places[key]
        if number not in self.copies:
            self.copies[number] = _copied_memory(self.wholes[number])
        offset = start - _address(self.wholes[number][0])[1]
        item = tensor.element_size()
        if offset % item:  # unaligned: a memory of its own
            return tensor.detach().clone()
        data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        data.set_(
            self.copies[number], offset // item + tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        return data


def _address(storage: torch.UntypedStorage) -> tuple[str, int]:
    return str(storage.device), storage.data_ptr() if storage.device.type != "meta" else 0


def _copied_memory(storages: list[torch.UntypedStorage]) -> torch.UntypedStorage:
    if len(storages) == 1:
        return storages[0].clone()
    first = _address(storages[0])[1]
    size = max(_address(one)[1] + one.nbytes() for one in storages) - first
    whole = torch.empty(size, dtype=torch.uint8, device=storages[0].device)
    for one in storages:
        start = _address(one)[1] - first
        part = torch.empty(0, dtype=torch.uint8, device=one.device).set_(one)  # type: ignore[call-overload]
        whole[start : start + one.nbytes()] = part
    return whole.untyped_storage()


def _twin(tensor: Tensor, memories: _Memories) -> Tensor:
    data = memories.twin(tensor)
    if data is None:  # sparse tensors, subclasses without a storage
        return copy.deepcopy(tensor.detach()).requires_grad_(tensor.requires_grad and tensor.is_leaf)
    if isinstance(tensor, nn.Parameter):  # the user's own class too
        twin: Tensor = _torch.make_subclass(type(tensor), data, tensor.requires_grad)
        twin.__dict__.update(tensor.__dict__)
    else:
        twin = data.requires_grad_(tensor.requires_grad and tensor.is_leaf)
    if tensor.is_leaf and tensor.grad is not None:
        twin.grad = tensor.grad.clone()
    return twin


def _dropped(copied: nn.Module, carrier: Carrier) -> dict[str, str]:
    """Take module hooks that could not be made the copy's own off it."""
    lost = {}
    for path, module in copied.named_modules():
        for name, registry in vars(module).items():
            if name.endswith("_hooks") and isinstance(registry, dict):
                for key in [key for key, hook in registry.items() if id(hook) in carrier.spoiled]:
                    lost[path] = carrier.spoiled[id(registry.pop(key))]
    return lost


def _hooked(model: nn.Module, copied: nn.Module, carrier: Carrier) -> dict[str, str]:
    """Put the gradient hooks of the parameters on those of the copy."""
    lost, twins, done = {}, dict(copied.named_parameters(remove_duplicate=False)), set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        twin = twins.get(name)
        if twin is None or id(parameter) in done:
            continue
        done.add(id(parameter))
        kinds = (
            (_torch.gradient_hooks_of(parameter), twin.register_hook),
            (_torch.accumulation_hooks_of(parameter), twin.register_post_accumulate_grad_hook),
        )
        for hooks, register in kinds:
            for hook in list((hooks or {}).values()):
                try:
                    own = carrier.copied(hook)
                    carrier.fill()
                    if id(own) in carrier.spoiled:
                        raise RuntimeError(carrier.spoiled[id(own)])
                    if twin.requires_grad:
                        register(own)
                except Exception as error:
                    lost[name] = first_line(error)
    return lost


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
