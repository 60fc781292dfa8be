"""The torch functions that a model calls, seen above autograd: their names, and what some of them need.

Attention, recurrent layers and higher-order operators are met here, before torch takes them apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from inspector.tracing._torch import functorch_level
from inspector.tracing.capture import recurrent
from inspector.tracing.capture.higher_order import BODIES, WHOLE
from inspector.tracing.capture.kernels import aside
from inspector.tracing.capture.known import keep_values, readable
from inspector.tracing.capture.masks import share_left

if TYPE_CHECKING:
    from inspector.tracing.capture.recorder import Recorder

ATTENTION = "scaled_dot_product_attention"
_CONSTANTS = ("tensor", "as_tensor")
_SPECIAL = {ATTENTION, "tolist", *_CONSTANTS, *recurrent.CELLS} | {
    name.removeprefix("higher_order.") for name in BODIES
}


@contextmanager
def attention_seen(recorder: Recorder) -> Iterator[None]:
    """Name attention also as `F.multi_head_attention_forward` calls it: the function mode, which sees that
    outer call, is off inside it."""
    original = functional.scaled_dot_product_attention

    def scaled_dot_product_attention(*args: Any, **kwargs: Any) -> Any:
        with recorder.named(ATTENTION), recorder.leaving(share_left(recorder, args, kwargs)):
            return original(*args, **kwargs)

    functional.scaled_dot_product_attention = scaled_dot_product_attention
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = original


class Functions(TorchFunctionMode):
    """Names the torch function that the model called, for the operators that it runs.

    Above autograd: a higher-order operator runs in its parts here, so that autograd sees them.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.names: dict[Any, tuple[str, bool]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name, special = self.names.get(func) or self._name(func)
        if name == "__get__":
            return func(*args, **(kwargs or {}))
        recorder = self.recorder
        outer = recorder.group
        recorder.group = name
        try:
            if special:
                return self._special(name, func, args, kwargs or {})
            return func(*args, **(kwargs or {}))
        finally:
            recorder.group = outer

    def _name(self, func: Any) -> tuple[str, bool]:
        name = getattr(func, "__name__", str(func))
        self.names[func] = name, name in _SPECIAL
        return self.names[func]

    def _special(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        if name == ATTENTION:
            with self.recorder.leaving(share_left(self.recorder, args, kwargs)):
                return func(*args, **kwargs)
        if name == "tolist":  # it reads the memory, no operator tells
            return func(readable(self.recorder, args[0]))
        if name in _CONSTANTS:
            return self._constant(func, args, kwargs)
        if name in recurrent.CELLS:
            return recurrent.run(name, func, args, kwargs)
        body = BODIES.get(f"higher_order.{func}")
        if body is None or functorch_level() is not None:
            return func(*args, **kwargs)
        with nullcontext() if body in WHOLE else self:
            return body(self.recorder, func, *args, **kwargs)

    def _constant(self, func: Any, args: Any, kwargs: Any) -> Any:
        """A tensor of Python's numbers: on meta they are remembered."""
        made = func(*args, **kwargs)
        numbers = args[0] if args else kwargs.get("data")
        if made.device.type == "meta" and not isinstance(numbers, Tensor):
            with aside():
                try:
                    values = torch.tensor(numbers, dtype=made.dtype, device="cpu")
                except (TypeError, ValueError, RuntimeError):  # a list of tensors on meta, for one
                    return made
            keep_values(self.recorder, made, values)
        return made
