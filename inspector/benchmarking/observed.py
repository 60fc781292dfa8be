"""One forward, or one training step, of which every module's float outputs are seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from inspector.models.determinate import cast
from inspector.tracing.values import floats, tensors

ROOT = "(model)"
Hook = Callable[[str, nn.Module, list[Tensor]], None]


def run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    mode: str,
    loss: Callable[[Any], Tensor],
    hook: Hook,
    autocast: torch.dtype | None = None,
    scale: float = 1.0,
    call: Callable[..., Any] | None = None,
) -> list[Tensor]:
    """Clones of the float outputs; in training the gradients of loss * scale are in the model after it.
    `call` runs in place of the model, without hooks: the compiled model."""
    training = mode == "train"
    mine, options = cast((args, kwargs))  # a model may change its input in place
    model.train(training).zero_grad(set_to_none=True)
    with torch.set_grad_enabled(training):
        with _autocast(model, (args, kwargs), autocast):
            if call is not None:
                outputs = call(*mine, **options)
            else:
                with _hooked(model, hook):  # off before backward, which may run checkpointed blocks again
                    outputs = model(*mine, **options)
            copies = [value.detach().clone() for value in floats(outputs)]
            value = loss(outputs) if training else None
        if value is not None:
            (value * scale).backward()
    return copies


@contextmanager
def _hooked(model: nn.Module, hook: Hook) -> Iterator[None]:
    """Give the float outputs of every module call to `hook` at once: the next layer may overwrite them."""

    def listener(path: str) -> Callable[[nn.Module, Any, Any], None]:
        @torch.no_grad()
        def listen(module: nn.Module, inputs: Any, output: Any) -> None:
            values = [value.detach() for value in floats(output)]
            if values:
                hook(path, module, values)

        return listen

    handles = []
    try:
        for path, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # its submodules are not called from Python
                handles.append(module.register_forward_hook(listener(path or ROOT)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _autocast(model: nn.Module, inputs: Any, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    if dtype is None:
        return nullcontext()
    first = next(chain(model.parameters(), model.buffers(), tensors(inputs)), None)
    return torch.autocast(first.device.type if first is not None else "cpu", dtype)
