"""What a step really takes on the device at hand: torch's own counters on CUDA, its memory events on a CPU.

On a CPU the blocks that a kernel takes for itself and gives back before it returns (oneDNN's reordered
weights, reduction buffers) are told apart from tensors by the profiler's tree: they differ from CUDA's, and
the prediction holds tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves, tree_map

from inspector.core.errors import InspectError
from inspector.footprint import simulate
from inspector.models import Recipe
from inspector.models.build import out_of_memory
from inspector.models.inputs import materialise
from inspector.models.replica import replica
from inspector.models.subject import refuse_scripted, with_values
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.isolate import no_collection, random_state
from inspector.tracing.capture.setting import Setting, checkpoint_modules
from inspector.tracing.record import Trace

if TYPE_CHECKING:
    from inspector.footprint.report import Question


@dataclass(frozen=True)
class Measured:
    """Predicted and measured bytes side by side (columns quantity, predicted, measured, ratio)."""

    frame: pd.DataFrame
    note: str


class Peak(NamedTuple):
    """Bytes at the peak of tensors alone, and with what kernels take for themselves."""

    tensors: int
    whole: int


def measured(question: Question, batch: int | None) -> Measured:
    """Run the step of `question` here, three times on CUDA and twice on a CPU, and compare the last."""
    cuda = torch.cuda.is_available()
    place = "cuda" if cuda else "cpu"
    kernels = question.setting.kernels
    assert kernels is not None
    setting = replace(question.setting, kernels=replace(kernels, device=place))
    found = question.trace(batch, setting)
    plan = replace(question.plan(found), exact=not cuda)
    if cuda:
        plan = replace(plan, workspace=_workspace())
    if plan.master_weights or (plan.optimizer is not None and plan.optimizer.quantized):
        raise InspectError("torch has no such optimizer to measure", "leave out `measure=`")
    predicted = simulate(found, plan)
    try:
        with random_state():
            loop = Loop.make(question, batch, setting, place)
            rows = _on_cuda(loop, predicted) if cuda else _on_cpu(loop, found, predicted)
    except Exception as error:
        if out_of_memory(error):
            raise InspectError(f"not enough memory to run it on {place}", "leave out `measure=`") from error
        raise
    frame = pd.DataFrame(rows, columns=["quantity", "predicted", "measured"])
    frame["ratio"] = frame["predicted"] / frame["measured"]
    name = torch.cuda.get_device_name() if cuda else "the CPU, with its kernels and without rounding"
    return Measured(frame, f"measured on {name}")


def _workspace() -> int:
    from inspector.footprint.step import CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_HOPPER

    return CUBLAS_WORKSPACE_HOPPER if torch.cuda.get_device_capability()[0] >= 9 else CUBLAS_WORKSPACE


def _on_cuda(loop: Loop, predicted: Any) -> list[tuple[str, int, int]]:
    for _ in range(2):
        loop()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    loop()
    torch.cuda.synchronize()
    return [
        ("peak allocated", predicted.allocated, torch.cuda.max_memory_allocated()),
        ("peak reserved", predicted.reserved, torch.cuda.max_memory_reserved()),
    ]


def _on_cpu(loop: Loop, found: Trace, predicted: Any) -> list[tuple[str, int, int]]:
    loop()
    peak = peak_on_cpu(loop, {op.name for op in found.ops})
    return [
        ("tensors", predicted.allocated, peak.tensors),
        ("with the kernels' own", predicted.allocated, peak.whole),
    ]


@dataclass
class Loop:
    """One step of inference or training of a real model, as `inspector.tracing` runs it: the backward starts
    at the model's loss, or at all its outputs."""

    model: nn.Module
    args: Any
    kwargs: Any
    phase: str
    autocast: Callable[[], Any]
    optimizer: torch.optim.Optimizer | None = None

    @staticmethod
    def make(question: Question, batch: int | None, setting: Setting, device: str) -> Loop:
        model = owned(question.recipe, device, question.seed)
        if setting.torch_dtype is not None:
            model = model.to(setting.torch_dtype)
        model.train(question.phase == "train")
        lowered = setting.kernels.autocast if setting.kernels else None

        def autocast() -> Any:
            return torch.autocast(device, getattr(torch, lowered)) if lowered else nullcontext()

        checkpoint_modules(model, setting.checkpoints, nullcontext)
        made = materialise(question.inputs(batch), model, device, question.seed)
        args, kwargs = tree_map(setting.cast, made)
        training = question.phase == "train"
        optimizer = _OPTIMIZERS[question.optimizer](model) if training else None
        return Loop(model, args, kwargs, question.phase, autocast, optimizer)

    def __call__(self) -> None:
        if self.optimizer is None:
            with torch.no_grad(), self.autocast():
                self.model(*self.args, **self.kwargs)
            return
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = self.model(*self.args, **self.kwargs)
        roots = differentiable(outputs)
        del outputs
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
        self.optimizer.step()

    def held(self) -> int:
        """Bytes of model, inputs and optimizer state before a step."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        tensors += [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, torch.Tensor)]
        if self.optimizer is not None:
            states = self.optimizer.state.values()
            tensors += [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
        return sum({id(t.untyped_storage()): t.untyped_storage().nbytes() for t in tensors}.values())


def owned(recipe: Recipe, device: str, seed: int) -> nn.Module:
    """The model with values on `device`: nobody else's, a live model is copied."""
    model = with_values(recipe, None, seed)
    refuse_scripted(model)
    if any(tensor.device.type == "meta" for tensor in model.parameters()):
        raise InspectError("the model is on meta: it has no values to run", "leave out `measure=`")
    return (model if recipe.rebuilds else replica(model)).to(device)


def _trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


_OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(_trainable(model), lr=1e-4, foreach=True),
    "momentum": lambda model: torch.optim.SGD(_trainable(model), lr=1e-4, momentum=0.9, foreach=True),
    "adam": lambda model: torch.optim.Adam(_trainable(model), lr=1e-4, foreach=True),
    "adamw": lambda model: torch.optim.AdamW(_trainable(model), lr=1e-4, foreach=True),
}
"""`foreach`, which is the default on CUDA only, on every device."""


class _Event(NamedTuple):
    time: int
    nbytes: int
    address: int
    kernel: Any


def peak_on_cpu(loop: Loop, operators: set[str]) -> Peak:
    """The peak of one call of `loop`. `operators` are the names of those that a trace of it holds
    ("aten.addmm"): a block that is taken and given back inside one of them belongs to the kernel."""
    if loop.optimizer is not None:
        loop.optimizer.zero_grad(set_to_none=True)  # the profiler misses releases of what it saw no birth of
    before = loop.held()
    with no_collection(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loop()
    tree = profiler.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
    names = {name.replace(".", "::") for name in operators}
    events = sorted((event for root in tree for event in _events(root, None, names)), key=lambda e: e.time)
    own = _kernels_own(events)
    tensors = whole = most_tensors = most = before
    for number, event in enumerate(events):
        whole += event.nbytes
        most = max(most, whole)
        if number not in own:
            tensors += event.nbytes
            most_tensors = max(most_tensors, tensors)
    return Peak(most_tensors, most)


def _events(node: Any, kernel: Any, names: set[str]) -> Iterator[_Event]:
    """Allocations and releases below `node`, each with the outermost known operator around it."""
    kind, extra = node.typed
    if kind == _EventType.Allocation:
        yield _Event(node.start_time_ns, extra.alloc_size, extra.ptr, kernel)
        return
    if kernel is None and kind == _EventType.TorchOp and node.name in names:
        kernel = node
    for child in node.children:
        yield from _events(child, kernel, names)


def _kernels_own(events: list[_Event]) -> set[int]:
    """Indices of the events of blocks that live within one operator."""
    taken: dict[int, int] = {}
    own: set[int] = set()
    for number, event in enumerate(events):
        if event.nbytes > 0:
            taken[event.address] = number
        elif event.address in taken:
            start = taken.pop(event.address)
            if event.kernel is not None and events[start].kernel is event.kernel:
                own |= {start, number}
    return own
