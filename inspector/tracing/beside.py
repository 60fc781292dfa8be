"""What bitsandbytes keeps beside a quantised weight: scales, tables and the shape that it stands for.

`Params4bit` holds packed codes and has a `quant_state`, `Int8Params` holds int8 and has one scale for each
row, `SCB`. Some of it moves into the module with the first forward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from inspector.tracing import _torch
from inspector.tracing.storage import storage_id
from inspector.tracing.subclass import PLAIN

_PACKAGE = "bitsandbytes"


def quantised(module: nn.Module | None, tensor: Tensor) -> bool:
    """Whether bitsandbytes has quantised a parameter of `module`."""
    if type(tensor) in PLAIN and not _ours(module):
        return False
    return _state(module, tensor) is not None or _scales(module, tensor) is not None


def uses(model: nn.Module) -> bool:
    """Whether a part of `model` is a layer of bitsandbytes."""
    return any(map(_ours, model.modules()))


def beside(module: nn.Module | None, tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensors that belong to a quantised parameter of `module` and are not inside it."""
    scales = _scales(module, tensor)
    return tuple(_tensors(_state(module, tensor))) + (() if scales is None else (scales,))


def presented(module: nn.Module | None, tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype, str] | None:
    """Shape and dtype of the weight that 4-bit codes stand for, and the code's name ("nf4")."""
    state = _state(module, tensor)
    return None if state is None else (tuple(state.shape), state.dtype, state.quant_type)


def swap_beside(module: nn.Module, originals: dict[str, Tensor], copied: Callable[[Tensor], Tensor]) -> None:
    """Give the stand-ins of `module`'s parameters (by name; `originals` are what they stand for) copies of
    what is beside those. The module's own attributes are replaced too: call inside `preserved`."""
    for name, original in originals.items():
        twin: Any = _torch.parameters_of(module)[name]
        state = _state(module, original)
        if state is not None:
            twin.quant_state = _copied_state(state, copied)
            if getattr(module, "quant_state", None) is not None:
                module.quant_state = twin.quant_state
        if type(original).__name__ == "Int8Params":
            _swap_int8(module, original, twin, copied)


def _swap_int8(module: nn.Module, original: Any, twin: Any, copied: Callable[[Tensor], Tensor]) -> None:
    def moved(value: Tensor) -> Tensor:
        shared = storage_id(value) == storage_id(original)
        return twin.detach() if shared else copied(value)

    for owner in (twin, *_own_state(module)):
        for name, value in tuple(vars(owner).items()):
            if isinstance(value, Tensor):
                setattr(owner, name, moved(value))


def _own_state(module: Any) -> Iterator[Any]:
    """The forward writes into the module's state: a copy of it takes its place."""
    if "state" in vars(module):
        module.state = copy.copy(module.state)
        yield module.state


def _copied_state(state: Any, copied: Callable[[Tensor], Tensor]) -> Any:
    made = copy.copy(state)
    for name, value in vars(state).items():
        if isinstance(value, Tensor):
            setattr(made, name, copied(value))
        elif type(value) is type(state):
            setattr(made, name, _copied_state(value, copied))
    return made


def _ours(value: Any) -> bool:
    return type(value).__module__.startswith(_PACKAGE)


def _state(module: Any, tensor: Any) -> Any:
    """The `quant_state` of 4-bit codes: of the parameter, or of its module where the parameter lost it."""
    if type(tensor) in PLAIN and not _ours(module):
        return None
    own = getattr(tensor, "quant_state", None) if _ours(tensor) else None
    if own is None and _ours(module) and tensor is getattr(module, "weight", None):
        own = getattr(module, "quant_state", None)
    return own if getattr(own, "shape", None) is not None else None


def _scales(module: Any, tensor: Any) -> Tensor | None:
    """The scales of int8 rows: of the parameter, after its first forward of the module's `state`."""
    if type(tensor) in PLAIN or not _ours(tensor) or tensor.dtype is not torch.int8:
        return None
    own = getattr(tensor, "SCB", None)
    return own if own is not None else getattr(getattr(module, "state", None), "SCB", None)


def _tensors(state: Any) -> Iterator[Tensor]:
    for value in vars(state).values() if state is not None else ():
        if isinstance(value, Tensor):
            yield value
        elif type(value) is type(state):
            yield from _tensors(value)
