"""Building a model without paying for its memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import MethodDescriptorType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from inspector.core.collection import paused
from inspector.core.errors import InspectError
from inspector.tracing import _torch
from inspector.tracing._torch import tree_leaves, tree_map
from inspector.tracing.capture.isolate import copied, random_state, seed_all

_ALLOCATING = {
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.empty_strided,
    torch.eye, torch.normal, torch.randint,
}  # fmt: skip


_FILLING = {
    torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.fill_, torch.Tensor.zero_,
    torch.Tensor.erfinv_, init.uniform_, init.normal_, init.constant_, init.ones_, init.zeros_,
    init.kaiming_uniform_, init.kaiming_normal_, init.xavier_uniform_, init.xavier_normal_,
    init.trunc_normal_,
}  # fmt: skip
"""Initialisation: without effect on a tensor that has no values."""
_SCALING = {torch.Tensor.mul_: 2, torch.Tensor.add_: 2, torch.Tensor.clamp_: 1}
"""What timm's initialisers do to what they have filled, and with how many positional arguments."""
_OF_TWO = {"kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"}
"""Those that need two dimensions, and must still be able to refuse a tensor of one."""
_GUARDED = "transformers.initialization"
"""Where transformers keeps functions of the same names, which it puts in the place of those of `nn.init`."""
_NAMES = {function.__name__ for function in _FILLING}


def build(construct: Callable[[], nn.Module], device: str, seed: int = 0) -> nn.Module:
    """Call `construct` so that the parameters and buffers end on `device`.

    On meta three ways are tried, from cheap to certain: allocating factories go to meta (the values
    of arange and linspace stay, constructors read them); all factories stay on the CPU and each
    tensor moves when it is registered; plain CPU. The random state of the caller is kept.
    """
    if device != "meta":
        return _placed(_seeded(construct, seed), device)
    for context in (_Meta, nullcontext):
        try:
            with context(), _moving():
                model = _seeded(construct, seed)
        except InspectError:  # ours, of what was asked for: no other way helps
            raise
        except Exception as error:
            if _faulty(error):  # the other ways need the memory of the whole model to fail alike
                raise
            continue
        return _swept(model) if isinstance(model, nn.Module) else model
    return _seeded(construct, seed)


def _faulty(error: BaseException) -> bool:
    """Whether a constructor raised for a reason of its own: to read values that meta does not have raises a
    RuntimeError, or a word about meta; a moved tensor may have lost an attribute."""
    cause: BaseException | None = error
    while cause is not None:
        own = isinstance(cause, (LookupError, TypeError, ValueError, ImportError, AttributeError))
        if not own or re.search("meta|tensor|parameter", str(cause), re.IGNORECASE):
            return False
        cause = cause.__cause__ or cause.__context__
    return True


def _placed(model: Any, device: str) -> Any:
    """On `device`. One that is there already stays as it is: bitsandbytes quantises what is moved."""
    if isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        state = (*model.parameters(), *model.buffers())
        if device == "cpu" and all(tensor.device.type == "cpu" for tensor in state):
            return model
    return model.to(device)


def _seeded(construct: Callable[[], nn.Module], seed: int) -> nn.Module:
    with random_state(), paused():
        seed_all(seed)
        return construct()


class _Meta(TorchFunctionMode):
    """Puts what the allocating factories make on the meta device, unless a device is asked for."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FILLING or (getattr(func, "__module__", "") == _GUARDED and func.__name__ in _NAMES):
            tensor = args[0] if args else kwargs.get("tensor")
            if tensor is not None and tensor.device.type == "meta":
                if _refused(func, tensor):
                    return func(*args, **kwargs)
                if tensor.dim() > 1 or func.__name__ not in _OF_TWO:
                    return tensor
        elif func in _SCALING and _only_values(func, args, kwargs):
            return args[0]
        if func in _ALLOCATING and kwargs.get("device") is None and "generator" not in kwargs:
            kwargs = {**kwargs, "device": "meta"}
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            return _together(error, func, args, kwargs)


def _only_values(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether arithmetic in place changes no more than values that a tensor does not have: with numbers."""
    tensor, *numbers = args
    if tensor.device.type != "meta" or not tensor.is_floating_point() or _refused(func, tensor):
        return False
    bounds = {"min", "max"} if func is torch.Tensor.clamp_ else set()
    numbers += kwargs.values()
    plain = all(type(number) in (int, float) for number in numbers)
    return plain and bool(numbers) and len(args) == _SCALING[func] and kwargs.keys() <= bounds


def _refused(func: Any, tensor: Tensor) -> bool:
    """Whether autograd may refuse it: a method that writes to (a part of) a parameter, outside `no_grad`."""
    method = isinstance(func, MethodDescriptorType)
    return method and tensor.requires_grad and torch.is_grad_enabled()


def _together(error: RuntimeError, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Again, all on meta: what has values (arange) met what has none. Raises `error` where that does not
    help, or where `func` writes into its arguments, which must be theirs."""
    name = getattr(func, "__name__", "")
    if "out" in kwargs or name == "__setitem__" or (name.endswith("_") and not name.endswith("__")):
        raise error
    leaves = tree_leaves((args, kwargs))
    if not any(isinstance(leaf, Tensor) and leaf.device.type == "meta" for leaf in leaves):
        raise error
    args, kwargs = tree_map(_moved, (args, kwargs))
    try:
        return func(*args, **kwargs)
    except RuntimeError:
        raise error from None


def _moved(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.to("meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf


@contextmanager
def _moving() -> Iterator[None]:
    """Every parameter and buffer moves to meta when a module registers it; ties stay ties."""
    register_parameter, register_buffer = nn.Module.register_parameter, nn.Module.register_buffer
    moved: dict[int, tuple[Tensor, Tensor]] = {}

    def parameter(self: nn.Module, name: str, param: Any, *args: Any, **kwargs: Any) -> None:
        register_parameter(self, name, to_meta(param, moved), *args, **kwargs)

    def buffer(self: nn.Module, name: str, tensor: Any, *args: Any, **kwargs: Any) -> None:
        register_buffer(self, name, to_meta(tensor, moved), *args, **kwargs)

    nn.Module.register_parameter, nn.Module.register_buffer = parameter, buffer  # type: ignore
    try:
        yield
    finally:
        nn.Module.register_parameter = register_parameter  # type: ignore[method-assign]
        nn.Module.register_buffer = register_buffer  # type: ignore[method-assign]


def to_meta(tensor: Any, moved: dict[int, tuple[Tensor, Tensor]]) -> Any:
    """The tensor's meta twin, the same one each time; `moved` keeps the originals alive."""
    if not isinstance(tensor, Tensor) or tensor.device.type == "meta" or is_lazy(tensor):
        return tensor
    if id(tensor) not in moved:
        parameter = isinstance(tensor, nn.Parameter)
        moved[id(tensor)] = (tensor, copied(tensor, "meta") if parameter else copied(tensor.detach(), "meta"))
    return moved[id(tensor)][1]


def _swept(model: nn.Module) -> nn.Module:
    """Move what was assigned past the registration."""
    moved: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        for registry in (_torch.parameters_of(module), _torch.buffers_of(module)):
            for name, tensor in registry.items():
                registry[name] = to_meta(tensor, moved)
    return model


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        "not enough memory" in text or "can't allocate memory" in text
    )


def available_bytes() -> int | None:
    """Memory of this machine that is free or can be at once, None on a platform that does not report it."""
    with suppress(OSError), open("/proc/meminfo", encoding="ascii") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):  # pages without files alone are few after some hours
                return 1024 * int(line.split()[1])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
