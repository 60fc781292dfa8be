"""One pass over a model: `capture` returns the `Trace` that every view reads."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.collection import paused
from inspector.core.errors import InspectError
from inspector.tracing import _torch
from inspector.tracing._torch import tree_leaves, tree_map
from inspector.tracing.beside import beside
from inspector.tracing.capture import sharded
from inspector.tracing.capture.called import misfit
from inspector.tracing.capture.isolate import (
    countable_kernels,
    preserved,
    random_state,
    seed_all,
    stepwise,
    swap_state,
)
from inspector.tracing.capture.kernels import On, choosing
from inspector.tracing.capture.known import keep_values
from inspector.tracing.capture.masks import unread
from inspector.tracing.capture.mismatch import OnlyOnMeta, fitting, only_on_meta
from inspector.tracing.capture.modules import all_paths, places_of
from inspector.tracing.capture.pricing import Rule
from inspector.tracing.capture.recorder import Recorder
from inspector.tracing.capture.setting import PORTABLE, Setting, checkpoint_modules
from inspector.tracing.capture.state import state_entries
from inspector.tracing.describe import describe_call
from inspector.tracing.record import Failure, Module, ModuleRun, Op, StateEntry, Storage, Trace
from inspector.tracing.subclass import PLAIN
from inspector.tracing.values import tensors

PHASES = ("forward", "train")
Tree = list[tuple[str, nn.Module]]
"""Modules with their paths, each before what it holds."""


class ForwardError(InspectError):
    """The model raised while it ran; `trace` holds what ran before, `report` the report of it where one was
    asked for."""

    report: Any = None

    def __init__(self, trace: Trace) -> None:
        failure = trace.failure
        assert failure is not None
        where = f"module {failure.module!r} ({failure.type})" if failure.module else failure.type
        inputs = ", ".join(failure.inputs)
        lines = failure.message.strip().splitlines()
        message = f"{failure.error}: {lines[0]}" if lines else failure.error
        self.trace = trace
        if failure.misfit:
            super().__init__(*failure.misfit)
            return
        if failure.expects:
            where += f" expects {failure.expects}" + (f" in {inputs}" if inputs else "")
        else:
            where += " raised" + (f" on {inputs}" if inputs else "")
        super().__init__(f"{where}: {message}", _hint(trace.inputs, failure.better))


def _hint(inputs: tuple[str, ...], better: tuple[str, ...]) -> str:
    """What to pass instead of the inputs."""
    if better and better != inputs:
        fit = better[0] if len(better) == 1 else list(better)
        longer = sum(text.count(",") for text in better) > sum(text.count(",") for text in inputs)
        return f"pass `inputs={fit!r}`" + (": the batch comes first" if longer else "")
    if any(_looks_like_a_shape(text) for text in inputs):
        return 'a string among call arguments is a value: pass `inputs=["x=1x3x8x8"]`, a list of strings'
    return "check `inputs=` against what the model expects; `error.__cause__` shows the whole error"


def _looks_like_a_shape(text: str) -> bool:
    return re.fullmatch(r'(\w+)?:="(\w+\[)?\d+([x,]\d+)*\]?"', text) is not None


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
    context: Callable[[nn.Module], AbstractContextManager[Any]] = nullcontext,
    notes: tuple[str, ...] = (),
    uncounted: tuple[str, ...] = (),
    setting: Setting = PORTABLE,
    values: Any = None,
) -> Trace:
    """Run `model(*args, **kwargs)` once on `device` and record every operator.

    `phase` "forward" runs in eval mode without gradients; "train" runs in train mode, then the backward of
    the sum of the outputs, or of the loss where the model returns one. Inputs must be on `device`; `values`
    are the same (args, kwargs) on the CPU, whose integers a pass on meta may read. The model is the same
    afterwards. Raises ForwardError when the model raises, with the trace of what ran before.
    """
    if phase not in PHASES:
        raise InspectError(f"unknown phase {phase!r}", f"use one of: {', '.join(PHASES)}")
    kwargs = dict(kwargs or {})
    state = tuple(setting.described(entry) for entry in state_entries(model))
    paths = all_paths(model)
    scripted = any(isinstance(module, torch.jit.ScriptModule) for _, module in paths)
    if scripted:
        model = copy.deepcopy(model)  # it keeps its state where nothing can be swapped
        paths = all_paths(model)
    recorder = Recorder(places_of(paths), device, rules)
    with ExitStack() as stack:
        for guard in (paused(), preserved(model), random_state(), countable_kernels(), context(model)):
            stack.enter_context(guard)
        if scripted:
            stack.enter_context(stepwise())  # no function mode sees the calls of TorchScript
        on = stack.enter_context(choosing(setting.kernels, recorder.named))
        seed_all(seed)
        gathered = swap_state(model, device, setting.torch_dtype)
        if setting.dtype is not None:
            args, kwargs = tree_map(setting.cast, (args, kwargs))
        model.train(phase == "train")
        checkpoint_modules(model, setting.checkpoints, on)
        tree = list({id(module): (path, module) for path, module in reversed(paths)}.values())[::-1]
        _hold_state(recorder, tree, (args, kwargs))
        _hold_values(recorder, (args, kwargs), values)
        ops, storages, error = _record(recorder, model, tree, args, kwargs, phase, on)
    inputs = tuple(describe_call(args, kwargs))
    trace = Trace(
        model=name or type(model).__name__,
        source=source,
        phase=phase,
        device=device,
        inputs=inputs,
        ops=ops,
        storages=storages,
        modules=_modules(paths, recorder.calls),
        state=state,
        notes=(*notes, *recorder.notes, *unread(ops), *_spread(model, state, gathered)),
        uncounted=uncounted,
        failure=_failure(recorder, model, error, inputs, (args, kwargs)),
        runs=tuple(ModuleRun(*run) for run in recorder.runs),
    )
    if error is not None:
        raise ForwardError(trace) from error
    return trace


def _spread(model: nn.Module, state: tuple[StateEntry, ...], gathered: bool) -> tuple[str, ...]:
    return sharded.notes(model, gathered) if gathered or any(entry.stored for entry in state) else ()


def _record(
    recorder: Recorder, model: nn.Module, tree: Tree, args: Any, kwargs: Any, phase: str, on: On
) -> tuple[tuple[Op, ...], tuple[Storage, ...], BaseException | None]:
    """Run the model under the recorder: the operators, the storages, and what the model raised."""
    error: BaseException | None = None
    outputs = None
    try:
        outputs = _run(recorder, model, args, kwargs, phase, on)
    except (Exception, SystemExit) as raised:
        error = raised
    if error is None and recorder.device == "meta":
        error = only_on_meta(recorder.raw)
    _hold_gradients(recorder, tree)
    storages = recorder.lifetimes()  # while outputs and gradients live
    del outputs
    return recorder.ops(), storages, error


def _modules(paths: Tree, calls: Mapping[str, int]) -> tuple[Module, ...]:
    """The module tree; a module that is registered in several places is there in each."""
    first: dict[int, str] = {}
    tree = []
    for path, module in paths:
        leading = first.setdefault(id(module), path)
        same_as = leading if leading != path else None
        tree.append(Module(path, type(module).__name__, calls.get(path, 0), same_as))
    return tuple(tree)


def _failure(
    recorder: Recorder,
    model: nn.Module,
    error: BaseException | None,
    inputs: tuple[str, ...],
    call: tuple[tuple[Any, ...], Mapping[str, Any]],
) -> Failure | None:
    if error is None:
        return None
    wrong = recorder.wrong
    failure = recorder.failure or Failure("", type(model).__name__, (), type(error).__name__, str(error))
    if isinstance(error, OnlyOnMeta):
        wrong, module = error.wrong, model.get_submodule(error.path)
        failure = Failure(error.path, type(module).__name__, (), "RuntimeError", str(error))
    if isinstance(error, TypeError) and not failure.module and not recorder.raw:
        forward: Any = model.forward
        owner = f"{type(model).__name__}.{getattr(forward, 'method', 'forward')}()"
        return replace(failure, misfit=misfit(forward, owner, *call) or ())
    if wrong is None:
        return failure
    return replace(failure, expects=str(wrong), better=fitting(inputs, wrong))


def _hold_state(recorder: Recorder, tree: Tree, inputs: Any) -> None:
    for path, module in tree:
        for parameter in _torch.parameters_of(module).values():
            if parameter is not None:
                recorder.hold(parameter, "parameter", path)
                recorder.own(parameter, path)
                if type(parameter) not in PLAIN:
                    for tensor in beside(module, parameter):
                        recorder.hold(tensor, "packing", path)
        for buffer in _torch.buffers_of(module).values():
            if buffer is not None:
                recorder.hold(buffer, "buffer", path)
    for leaf in tree_leaves(inputs):
        if isinstance(leaf, Tensor):
            recorder.hold(leaf, "input")


def _hold_values(recorder: Recorder, inputs: Any, values: Any) -> None:
    """Remember the integers among the inputs: tokens, masks, lengths."""
    leaves, others = (tree_leaves(tree) for tree in (inputs, values))
    for leaf, value in zip(leaves, others) if len(leaves) == len(others) else ():
        if isinstance(leaf, Tensor) and isinstance(value, Tensor) and not value.is_floating_point():
            keep_values(recorder, leaf, value)


def _hold_gradients(recorder: Recorder, tree: Tree) -> None:
    for path, module in tree:
        for parameter in _torch.parameters_of(module).values():
            if parameter is not None and parameter.grad is not None:
                recorder.hold(parameter.grad, "gradient", path)


def _run(recorder: Recorder, model: nn.Module, args: Any, kwargs: Any, phase: str, on: On) -> Any:
    """Forward, and in the train phase backward; returns what keeps the results alive."""
    recorder.trains = phase == "train"
    with torch.set_grad_enabled(recorder.trains):
        with recorder.recording(), on():
            outputs = model(*args, **kwargs)
        roots = differentiable(outputs)
        if phase == "forward":
            return outputs
        if not roots:
            raise RuntimeError("no output requires grad: there is no backward to count")
        seeds = [torch.ones_like(root) for root in roots]
        del outputs
        for seed in seeds:
            recorder.hold(seed, "constant")
        recorder.begin_backward()
        with recorder.recording():
            torch.autograd.backward(roots, seeds)
        return roots


def differentiable(outputs: Any) -> list[Tensor]:
    """The tensors to start the backward from: the model's own loss, else every output with a gradient, in
    whatever object it comes, once."""
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if isinstance(loss, Tensor) and loss.requires_grad:
        return [loss]
    roots = {id(leaf): leaf for leaf in tensors(outputs)}
    return [leaf for leaf in roots.values() if leaf.requires_grad]
