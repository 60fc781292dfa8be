"""An inspection leaves no trace: model, random state and global flags are put back.

The pass runs on stand-ins: every parameter and buffer is swapped for one on the counting device, so
that nothing the forward does can reach the model's own tensors.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from operator import is_
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parameter import is_lazy

from inspector.tracing import _torch
from inspector.tracing._deferred import loaded as compiler_loaded
from inspector.tracing.beside import swap_beside
from inspector.tracing.capture.sharded import whole, without_hooks
from inspector.tracing.subclass import PLAIN, rebuilt, wraps

_CONTAINERS = (list, dict, set)


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Restore every module's attributes, registries and flags, also after an exception."""
    saved = []
    for module in model.modules():
        attributes = dict(module.__dict__)
        contents = [
            (value, _content(value) if value else None)  # most hook registries are empty
            for value in attributes.values()
            if isinstance(value, _CONTAINERS)
        ]
        saved.append((module, attributes, contents))
    try:
        yield
    finally:
        for module, attributes, contents in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for container, content in contents:
                if content is not None or container:
                    _refill(container, content or ())


def _content(container: Any) -> Any:
    """A plain copy, whatever the container's own class makes of `copy`."""
    kind = next(kind for kind in _CONTAINERS if isinstance(container, kind))
    return kind(container)


def _refill(container: Any, content: Any) -> None:
    if _unchanged(container, content):
        return  # it may refuse to be written to
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)


def _unchanged(container: Any, content: Any) -> bool:
    """Whether it holds the same objects in the same order (of a set: the same)."""
    if len(container) != len(content):
        return False
    if isinstance(container, set):
        return container == set(content)
    if isinstance(container, dict) and not all(map(is_, container.values(), content.values())):
        return False
    return all(map(is_, container, content))


def swap_state(model: nn.Module, device: str, dtype: torch.dtype | None = None) -> bool:
    """Put stand-ins on `device` in place of all parameters and buffers; ties stay ties.

    On the meta device they hold no memory; elsewhere they are copies. With `dtype` the floating-point
    ones have that, as after `model.to(dtype)`. FSDP2's hooks are taken away, and stand-ins are whole where
    there were any: the result. Call inside `preserved`.
    """
    stand_ins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # the original keeps its id taken

    def stand_in(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in stand_ins:
            source = whole(tensor, device) if gathered else tensor
            stand_ins[id(tensor)] = (tensor, copied(source, device, dtype))
        return stand_ins[id(tensor)][1]

    gathered = False
    for module in model.modules():  # a module comes before those whose parameters its hooks gather
        gathered |= without_hooks(module)
        odd: dict[str, torch.Tensor] = {}
        for registry in (_torch.parameters_of(module), _torch.buffers_of(module)):
            for name, tensor in registry.items():
                if tensor is not None:
                    registry[name] = stand_in(tensor)  # type: ignore[assignment]
                    if type(tensor) not in PLAIN:
                        odd[name] = tensor
        if odd:
            swap_beside(module, odd, lambda tensor: copied(tensor, device))
    return gathered


def copied(tensor: torch.Tensor, device: str, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A leaf on `device` with the same class, attributes, values (unless meta) and requires_grad."""
    data = tensor.detach()
    if device == "meta" == data.device.type and dtype is None and type(tensor) in PLAIN:
        return _like(tensor, data)
    if dtype is not None and data.is_floating_point():
        data = data.to(dtype)
    if wraps(data):
        data = rebuilt(data, lambda inner: copied(inner, device))
    else:
        if data.device.type == "meta" != device:
            data = _made_up(data, device)
        strided = data.layout is torch.strided
        data = data.to("meta") if device == "meta" else data.clone().to(device)
        if data is tensor or (strided and data.data_ptr() == tensor.data_ptr() != 0):
            data = data.clone()
    return _like(tensor, data)


def _like(tensor: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
    """A leaf that holds `data`, of the class and with the attributes of `tensor`."""
    if isinstance(tensor, nn.Parameter):
        return _parameter(tensor, data)
    return data.requires_grad_(tensor.requires_grad) if data.is_floating_point() else data


def _made_up(data: torch.Tensor, device: str) -> torch.Tensor:
    """Values for a tensor that has none: small and random, of whole numbers 0."""
    values = torch.zeros(data.shape, dtype=data.dtype, device=device)
    return values.normal_(std=0.02) if data.is_floating_point() or data.is_complex() else values


def _parameter(tensor: nn.Parameter, data: torch.Tensor) -> torch.Tensor:
    if type(tensor) is nn.Parameter or is_lazy(tensor) or wraps(data):
        twin: torch.Tensor = nn.Parameter(data, requires_grad=tensor.requires_grad)
    else:
        twin = _torch.make_subclass(type(tensor), data, tensor.requires_grad)
    for name, value in tensor.__dict__.items():  # a wrapper's content is its own already
        twin.__dict__.setdefault(name, value)
    return twin


@contextmanager
def random_state() -> Iterator[None]:
    """Restore the random state of torch (all devices), Python and NumPy."""
    import numpy

    python, np, cpu = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    xpu = torch.xpu.get_rng_state_all() if torch.xpu.is_initialized() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        numpy.random.set_state(np)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if xpu is not None:
            torch.xpu.set_rng_state_all(xpu)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_all(seed: int) -> None:
    """Seed torch (all devices), Python and NumPy. Call inside `random_state`."""
    import numpy

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def countable_kernels() -> Iterator[None]:
    """Switch off the fused paths whose operators cannot be seen, and put them back.

    `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` have an opaque fast path in eval mode;
    attention kernels differ by device, the math form is the same on all. The backward runs on this
    thread, so that autograd's numbering of nodes holds on every device.
    """
    mha = torch.backends.mha
    fastpath = mha.get_fastpath_enabled()
    try:
        mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), torch.autograd.set_multithreading_enabled(False):
            yield
    finally:
        mha.set_fastpath_enabled(fastpath)


@contextmanager
def uncompiled() -> Iterator[None]:
    """What `torch.compile` made, or makes meanwhile, runs as it was written: a graph that is compiled whole
    has no operators to see, and torch refuses to compile where operators are recorded."""
    original, compiler = torch.compile, ExitStack()

    def stand_aside() -> None:
        compiler.enter_context(torch.compiler.set_stance("force_eager"))

    def compile(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        torch.compile = original
        stand_aside()
        return made

    with compiler:
        if compiler_loaded():  # else nothing is compiled yet, and the import takes seconds
            stand_aside()
        else:
            torch.compile = compile
        try:
            yield
        finally:
            torch.compile = original


@contextmanager
def stepwise() -> Iterator[None]:
    """Recurrent layers run step by step, without oneDNN's or cuDNN's opaque kernel."""
    kernels: tuple[Any, ...] = torch.backends.mkldnn, torch.backends.cudnn
    before = [library.enabled for library in kernels]
    try:
        for library in kernels:
            library.enabled = False
        yield
    finally:
        for library, enabled in zip(kernels, before):
            library.enabled = enabled
