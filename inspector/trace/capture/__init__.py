"""One pass over a model: `capture` returns the `Trace` that every view reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from inspector.errors import InspectError
from inspector.trace.capture.isolate import countable_kernels, preserved, random_state, swap_state
from inspector.trace.capture.recorder import Recorder, Rule, describe
from inspector.trace.capture.state import state_entries
from inspector.trace.record import Failure, Module, Trace

PHASES = ("forward", "train")


def capture(
    model: nn.Module,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    phase: str = "forward",
    device: str = "meta",
    name: str = "",
    source: str = "python",
    seed: int = 0,
    rules: Mapping[str, Rule] | None = None,
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    notes: tuple[str, ...] = (),
) -> Trace:
    """Run `model(*args, **kwargs)` once on `device` and record every operator.

    `phase` "forward" runs in eval mode without gradients; "train" runs in train mode, then the
    backward of the sum of the outputs, or of the loss where the model returns one. Inputs must be
    on `device`. The model is the same afterwards. A forward that raises gives a trace with
    `failure` set, which holds what ran before; the exception itself is its `__cause__`-free record,
    and `capture` does not raise it.
    """
    if phase not in PHASES:
        raise InspectError(f"unknown phase {phase!r}", f"use one of: {', '.join(PHASES)}")
    kwargs = dict(kwargs or {})
    state = state_entries(model)
    paths: dict[int, str] = {}
    for path, module in model.named_modules():
        paths.setdefault(id(module), path)
    recorder = Recorder(paths, device, rules)
    error: Exception | None = None
    with ExitStack() as stack:
        for guard in (preserved(model), random_state(), countable_kernels(), context()):
            stack.enter_context(guard)
        torch.manual_seed(seed)
        swap_state(model, device)
        model.train(phase == "train")
        _hold_state(recorder, model, (args, kwargs))
        try:
            _run(recorder, model, args, kwargs, phase)
        except Exception as raised:
            error = raised
    failure = recorder.failure if error is not None else None
    if error is not None and failure is None:
        failure = Failure("", type(model).__name__, (), type(error).__name__, str(error))
    return Trace(
        model=name or type(model).__name__,
        source=source,
        phase=phase,
        device=device,
        inputs=tuple(
            [describe(value) for value in args] + [f"{k}={describe(v)}" for k, v in kwargs.items()]
        ),
        ops=recorder.ops(),
        storages=recorder.lifetimes(),
        modules=tuple(
            Module(path, type(module).__name__, recorder.calls.get(path, 0))
            for path, module in model.named_modules()
        ),
        state=state,
        notes=notes,
        failure=failure,
    )


def _hold_state(recorder: Recorder, model: nn.Module, inputs: Any) -> None:
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                recorder.hold(parameter, "parameter")
                recorder.own(parameter, path)
        for buffer in module._buffers.values():
            if buffer is not None:
                recorder.hold(buffer, "buffer")
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor):
            recorder.hold(leaf, "input")


def _run(recorder: Recorder, model: nn.Module, args: Any, kwargs: Any, phase: str) -> None:
    with torch.set_grad_enabled(phase == "train"):
        with recorder:
            outputs = model(*args, **kwargs)
        if phase == "train":
            roots = differentiable(outputs)
            if not roots:
                raise RuntimeError("no output requires grad: there is no backward to count")
            seeds = [torch.ones_like(root) for root in roots]
            del outputs
            recorder.phase = "backward"
            with recorder:
                torch.autograd.backward(roots, seeds)


def differentiable(outputs: Any) -> list[Tensor]:
    """The tensors to start the backward from: the model's own loss, else every float output."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else getattr(outputs, "loss", None)
    if isinstance(loss, Tensor) and loss.requires_grad:
        return [loss]
    if dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        outputs = [getattr(outputs, field.name) for field in dataclasses.fields(outputs)]
    leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [leaf for leaf in leaves if leaf.requires_grad and leaf.dtype.is_floating_point]
