"""The record of a step of torch.distributed: what one process of many runs, holds and sends.

Beside what every `Recorder` notes, three facts of parallel code meet here:
- a DTensor takes itself apart, and the operators on this process's local tensors are what runs here;
- FSDP2 frees and grows the memory of gathered parameters by `resize_` of their storage, which no dispatch
  mode sees: a storage that grows again is a new block;
- what FSDP2 does for a group of parameters belongs to the module that holds them, whichever module runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps as keeps_name
from typing import Any

import torch
from torch import Tensor, nn

from inspector.tracing import _torch
from inspector.tracing.capture.fake import FakeMemo, Unrecorded
from inspector.tracing.capture.modules import ModuleCall, Places, Shared
from inspector.tracing.capture.pricing import Operator
from inspector.tracing.capture.recorder import Recorder
from inspector.tracing.record import WrappedSpec

GATHERED, COMMUNICATION = "gathered", "communication"
"""Roles of storages: parameters gathered from other processes, and buffers that are sent or received."""
HOST = "host"
"""The device of storages that FSDP2 keeps in the memory of the host."""
_ON_HOST = {"parameter", "gradient", "optimizer state"}
_APART = {"DTensor", "AsyncCollectiveTensor"}
_DEVICE = torch.ops.prim.device.default
_WAIT = "_c10d_functional.wait_tensor"
_ASKS = "_propagate_tensor_meta_non_cached"
_OF_GROUPS = {
    "unshard": GATHERED,
    "wait_for_unshard": GATHERED,
    "post_backward": COMMUNICATION,
}
"""What FSDP2 does for one group of parameters, and the role of what it makes for that."""


def _waited(tensor: Tensor) -> Tensor:
    """On real tensors it returns what it got; the kernel for fake ones makes a new tensor."""
    return tensor


class ParallelRecorder(Recorder):
    """Records one process of a parallel step on fake tensors."""

    def __init__(self, places: Places, mode: Any) -> None:
        super().__init__(places, "cpu", {_WAIT: _waited})
        self._memo: FakeMemo = FakeMemo(mode)
        self.role = "intermediate"
        self.recomputes = self.offloads = False
        self.copies: dict[str, list[int]] = {"to the device": [], "to the host": []}
        self._freed: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if any(kind.__name__ in _APART for kind in types):
            return NotImplemented
        space = getattr(func, "namespace", "")
        if space == "profiler":  # a mark on torch's own timeline
            with _torch.unseen():
                return func(*args, **(kwargs or {}))
        if space == "prim":  # a question about a tensor, no operator
            fake = getattr(args[0], "fake_device", None) if func is _DEVICE else None
            return func(*args, **(kwargs or {})) if fake is None else fake
        return super().__torch_dispatch__(func, types, args, kwargs)

    def unrecorded(self) -> Unrecorded:
        """What runs inside is not recorded, and quick."""
        return Unrecorded(self._memo)

    def _result(self, func: Any, operator: Operator, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        ordinary = super()._result
        return self._memo.run(
            lambda *args, **kwargs: ordinary(func, operator, args, kwargs), func, operator, args, kwargs
        )

    def _made(self, result: Any, index: int) -> Any:
        before = len(self.storages)
        made = super()._made(result, index)
        if self.role != "intermediate":
            for entry in self.storages[before:]:
                entry[2] = self.role
        return made

    def _enter(self, call: ModuleCall) -> None:
        self.recomputes |= self.phase == "backward"
        super()._enter(call)

    def claim(self, tensor: Tensor, role: str, module: str = "") -> None:
        """Say what the memory of a tensor is for, whatever was thought of it before."""
        spec = self._spec(tensor, role, None)
        for part in spec.parts if isinstance(spec, WrappedSpec) else (spec,):
            if part.storage >= 0:
                self.storages[part.storage][2] = role
                self.storages[part.storage][5] = module

    @contextmanager
    def at(self, path: str, role: str) -> Iterator[None]:
        """What runs inside belongs to the module at `path`; what it makes has `role`."""
        self._callers.append((self.path, self._run))
        outer, self.path, self.role = self.role, path, role
        try:
            yield
        finally:
            self.path, self.role = self._callers.pop()[0], outer

    @contextmanager
    def unplaced(self) -> Iterator[None]:
        """Inside, an operator of no module belongs to that of the autograd node that runs it."""
        callers, self._callers = self._callers, []
        try:
            yield
        finally:
            self._callers = callers

    @contextmanager
    def recording(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(_resizes_told(self._resized))
            if self.offloads:
                stack.enter_context(self._copies())
            stack.enter_context(self._groups())
            stack.enter_context(_shapes_asked_aside())
            stack.enter_context(super().recording())
            yield

    @contextmanager
    def _copies(self) -> Iterator[None]:
        """Let FSDP2's copies between host and device be copies: both are the same device here."""
        kind: Any = Tensor
        original = kind.to

        def to(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if self.role == "intermediate" or "non_blocking" not in kwargs:
                return original(tensor, *args, **kwargs)  # type: ignore[no-any-return]
            way = "to the device" if self.role == GATHERED else "to the host"
            self.copies[way].append(tensor.numel() * tensor.element_size())
            return tensor.clone()

        kind.to = to
        try:
            yield
        finally:
            kind.to = original

    def leave_on_host(self, since: int) -> None:
        """What FSDP2 offloads is in the host's memory, and so is all that was made from storage `since` on,
        where the optimizer steps."""
        for index, entry in enumerate(self.storages):
            if entry[2] in _ON_HOST or index >= since:
                entry[1] = HOST

    def _resized(self, storage: Any, before: int, after: int) -> None:
        key = id(storage)
        index = self._live.pop(key, None)
        if index is None:
            index = self._freed.get(key)
        elif before:
            self.storages[index][4] = len(self.raw) - 1
        if index is None:
            return
        if after == 0:
            self._freed[key] = index
            return
        self._freed.pop(key, None)
        reference, (_, device, role, _, _, module) = self._references[index], self.storages[index]
        reference.index = self._live[key] = len(self.storages)
        self._devices.append(device)
        self.storages.append([after, device, role, len(self.raw), None, module])
        self._references.append(reference)

    def _died(self, reference: Any) -> None:
        if self._freed.pop(reference.key, None) is None:
            super()._died(reference)

    @contextmanager
    def _groups(self) -> Iterator[None]:
        """Let what FSDP2 does for a group of parameters belong to its module."""
        kind = _torch.FSDPParamGroup
        before = {name: getattr(kind, name) for name in _OF_GROUPS}
        try:
            for name, role in _OF_GROUPS.items():
                setattr(kind, name, self._belonging(before[name], role))
            yield
        finally:
            for name, method in before.items():
                setattr(kind, name, method)

    def _belonging(self, method: Callable[..., Any], role: str) -> Callable[..., Any]:
        @keeps_name(method)
        def of_module(group: Any, *args: Any, **kwargs: Any) -> Any:
            with self.at(self._path_of(group.modules[0]), role):
                return method(group, *args, **kwargs)

        return of_module

    def _path_of(self, module: nn.Module) -> str:
        path = self.places.get(id(module), "")
        return path.paths[0] if isinstance(path, Shared) else path


@contextmanager
def _shapes_asked_aside() -> Iterator[None]:
    """DTensor runs each new operator once on whole tensors, to learn the shape of its result: that is no work
    of this process."""
    kind, name = _torch.ShardingPropagator, _ASKS
    original = getattr(kind, name)

    def aside(*args: Any, **kwargs: Any) -> Any:
        with _torch.unseen():
            return original(*args, **kwargs)

    setattr(kind, name, aside)
    try:
        yield
    finally:
        setattr(kind, name, original)


@contextmanager
def _resizes_told(tell: Callable[[Any, int, int], object]) -> Iterator[None]:
    """Tell of each storage that changes its size, with its bytes before and after."""
    kind: Any = torch.UntypedStorage
    original, own = kind.resize_, "resize_" in vars(kind)

    def resize_(storage: Any, size: int) -> Any:
        before = storage.nbytes()
        result = original(storage, size)
        if size != before:
            tell(storage, before, size)
        return result

    kind.resize_ = resize_
    try:
        yield
    finally:
        if own:
            kind.resize_ = original
        else:
            del kind.resize_
