"""What is timed: one inference, or one training step, of one precision. Nothing else is inside."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from inspector.benchmarking import fp8
from inspector.benchmarking.precisions import Precision
from inspector.models.loss import loss_of
from inspector.tracing import _torch
from inspector.tracing._torch import tree_flatten, tree_map, tree_unflatten

LEARNING_RATE = 1e-4
GROWTH_INTERVAL = 10**9
"""The loss scale never grows while it is timed, so that its fall counts the skipped steps exactly."""


@dataclass
class Step:
    """A callable step of `model` on fixed inputs; `around()` is what must hold while it runs.

    `scale` is how often GradScaler has skipped an optimizer step so far, see `skipped`.
    """

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    precision: Precision
    device: str
    mode: str
    call: Callable[..., Any]
    loss: Callable[[Any], Tensor] = loss_of
    optimizer: torch.optim.Optimizer | None = None
    scaler: torch.amp.GradScaler | None = None
    last: list[Any] = field(default_factory=list)
    replay: Callable[[], Any] | None = None
    started_at: float = 0.0

    def __call__(self) -> Any:
        if self.replay is not None:
            return self.replay()
        return self.infer() if self.mode == "infer" else self.train()

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision.autocast is None:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, self.precision.autocast)

    def infer(self) -> Any:
        with torch.inference_mode(), self.autocast():
            return self.call(*self.args, **self.kwargs)

    def train(self) -> Tensor:
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.loss(self.call(*self.args, **self.kwargs))
        if self.scaler is None:
            loss.backward()
            self.optimizer.step()
        else:
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        return loss.detach()

    def skipped(self) -> int:
        """How many optimizer steps GradScaler has skipped: it halves its scale at each."""
        if self.scaler is None:
            return 0
        now = self.scaler.get_scale()
        return round(torch.tensor(self.started_at / now).log2().item()) if now > 0 else 0


def make(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    precision: Precision,
    device: str,
    mode: str,
) -> Step:
    """The step of a model that is on its device, in its dtype. Training takes SGD with momentum."""
    step = Step(model, args, kwargs, precision, device, mode, model)
    if mode == "train":
        trainable = [p for p in model.parameters() if p.requires_grad]
        step.optimizer = torch.optim.SGD(trainable, lr=LEARNING_RATE, momentum=0.9)
        if precision.scaler:
            kind = torch.device(device).type
            step.scaler = torch.amp.GradScaler(kind, growth_interval=GROWTH_INTERVAL)
            step.started_at = step.scaler.get_scale()
    return step


def arranged(model: nn.Module, inputs: Any, precision: Precision) -> tuple[nn.Module, Any]:
    """A model of our own and its inputs with the layers and in the layout of the precision."""
    if precision.fp8:
        fp8.put_in(model)
    if "channels_last" in precision.switches:
        model, inputs = model.to(memory_format=torch.channels_last), tree_map(_channels_last, inputs)
    return model, inputs


def _channels_last(value: Any) -> Any:
    images = isinstance(value, Tensor) and value.dim() == 4
    return value.to(memory_format=torch.channels_last) if images else value


def compiled(step: Step) -> None:
    """Put torch.compile in front of the model; the first call of the step then compiles."""
    step.call = compiled_call(step.model)


def compiled_call(model: nn.Module) -> Callable[..., Any]:
    """The model compiled for the shapes that it is called with: left to itself torch compiles the forward of
    the second batch for any batch, which is slower."""
    alone = {"isolate_recompiles": True} if _isolates() else {}
    return torch.compile(model, dynamic=False, **alone)  # type: ignore[no-any-return,call-overload]


def room_for(programs: int) -> AbstractContextManager[Any]:
    """Within it torch keeps so many compiled models. Copies of a model share one forward, of which it keeps 8
    programs and runs every further one uncompiled, in silence; later versions count each model apart."""
    if not programs or _isolates():
        return nullcontext()
    each = _torch.compiler_config.recompile_limit
    return _torch.compiler_config.patch(recompile_limit=each * programs)  # type: ignore[no-any-return]


def _isolates() -> bool:
    return "isolate_recompiles" in signature(torch.compile).parameters


def graphed(step: Step, pool: Any = None) -> None:
    """Record the step's work on the GPU once as a CUDA graph in the memory of `pool`: inference whole,
    training its forward and backward (the optimizer and GradScaler run as they do without). Run the step a
    few times before. What is recorded is what the step calls: the compiled model where it is compiled."""
    with torch.cuda.device(step.device):
        if step.mode == "train":
            _graphed_training(step, pool)
            return
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(step.device)
        with torch.cuda.graph(graph, pool=pool):
            step.last = [step.infer()]  # the outputs live in the graph's memory
        step.replay = graph.replay


def _graphed_training(step: Step, pool: Any) -> None:
    inner = _OnTensors(step.call, step.args, step.kwargs)
    lowered = step.precision.autocast
    with torch.autocast("cuda", lowered, enabled=lowered is not None, cache_enabled=False):
        call = torch.cuda.make_graphed_callables(inner, inner.tensors, allow_unused_input=True, pool=pool)
    step.call = lambda *args, **kwargs: call(*inner.tensors)


class _OnTensors(nn.Module):
    """A call as a module of its tensors alone, the only arguments that torch graphs."""

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call = call
        self.leaves, self.spec = tree_flatten((args, kwargs))
        self.places = [i for i, leaf in enumerate(self.leaves) if isinstance(leaf, Tensor)]
        self.tensors = tuple(self.leaves[i] for i in self.places)

    def forward(self, *tensors: Tensor) -> Any:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors):
            leaves[place] = tensor
        args, kwargs = tree_unflatten(leaves, self.spec)
        return self.call(*args, **kwargs)
