"""What a step really takes on this machine's device, next to what was predicted.

On a CPU the blocks that a kernel takes for itself and gives back before it returns differ from CUDA's: the
prediction holds tensors only.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch

from inspector.core.errors import InspectError
from inspector.footprint import Memory, simulate
from inspector.footprint.cublas import Workspaces
from inspector.footprint.question import Question
from inspector.models.build import out_of_memory
from inspector.models.device import OTHERS, gpu_name, real_device
from inspector.models.subject import refuse_scripted
from inspector.profiling.live import Live
from inspector.profiling.meter import Peak, counters, metered, uncounted
from inspector.reporting.tables import Table
from inspector.tracing._torch import tree_leaves
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.isolate import random_state
from inspector.tracing.capture.setting import Setting, checkpoint_modules
from inspector.tracing.record import Trace


@dataclass(frozen=True)
class Measured:
    """Predicted and measured bytes side by side (columns quantity, predicted, measured, ratio)."""

    frame: Table
    note: str


def measured(question: Question, batch: int | None) -> Measured:
    """Run the step of `question` here, three times on an accelerator and twice on a CPU, and compare the
    last. An accelerator that counts no peak leaves it to the CPU."""
    found = real_device(None, others=OTHERS)
    device = "cpu" if uncounted(found) else found
    cuda = device.startswith("cuda")
    kernels = question.setting.kernels
    assert kernels is not None
    kind = "cpu" if device == "cpu" else "cuda"
    setting = replace(question.setting, kernels=replace(kernels, device=kind, major=_major(device)))
    trace = question.trace(batch, setting)
    plan = replace(question.plan(trace), exact=not cuda)
    if cuda:
        rules = replace(plan.rules, major=_major(device))
        plan = replace(plan, workspaces=Workspaces.of(device), rules=rules)
    if plan.master_weights or (plan.optimizer is not None and plan.optimizer.quantized):
        raise InspectError("torch has no such optimizer, so it cannot be measured", "leave out `measure=`")
    predicted = simulate(trace, plan)
    try:
        with random_state():
            loop = Loop.make(question, batch, setting, device)
            if device == "cpu":
                rows = _on_cpu(loop, trace, predicted)
            else:
                rows = _on_accelerator(loop, predicted, device)
    except Exception as error:
        if out_of_memory(error):
            raise InspectError(f"not enough memory to run it on {device}", "leave out `measure=`") from error
        raise
    frame = Table.of(
        [(what, predicted, real, predicted / real if real else None) for what, predicted, real in rows],
        ("quantity", "predicted", "measured", "ratio"),
    )
    return Measured(frame, f"measured on {_where(device)}{f'; {why}' if (why := uncounted(found)) else ''}")


def _where(device: str) -> str:
    name = gpu_name(device)
    if name is None:
        return "the CPU, with the CPU's kernels and without rounding"
    return name if device.startswith("cuda") else f"{name}; predicted are CUDA's kernels, without rounding"


def _major(device: str) -> int | None:
    return torch.cuda.get_device_capability(device)[0] if device.startswith("cuda") else None


def _on_accelerator(loop: Loop, predicted: Memory, device: str) -> list[tuple[str, int, int]]:
    """What is reserved is predicted by the rules of CUDA's allocator, of CUDA alone."""
    for _ in range(2):
        loop()
    memory = counters(device)
    allocated, reserved = memory.memory_allocated(device), memory.memory_reserved(device)
    with metered(device) as peak:
        loop()
    rows = [("peak allocated", predicted.allocated, allocated + peak.tensors)]
    if device.startswith("cuda"):
        rows.append(("peak reserved", predicted.reserved, reserved + (peak.reserved or 0)))
    return rows


def _on_cpu(loop: Loop, trace: Trace, predicted: Memory) -> list[tuple[str, int, int]]:
    loop()
    peak = peak_on_cpu(loop, {op.name for op in trace.ops})
    return [
        ("tensors", predicted.allocated, peak.tensors),
        ("with the kernels' own", predicted.allocated, peak.whole),
    ]


def peak_on_cpu(loop: Loop, operators: set[str]) -> Peak:
    """The peak of one call of `loop` with all that it holds; `operators` as `metered` takes them."""
    if loop.optimizer is not None:
        loop.optimizer.zero_grad(set_to_none=True)  # the profiler would miss their release
    held = loop.held()
    with metered("cpu", operators) as peak:
        loop()
    return Peak(held + peak.tensors, held + peak.whole)


@dataclass
class Loop:
    """One step of inference or training of a real model, as `inspector.tracing` runs it: the backward starts
    at the model's loss, or at all its outputs."""

    live: Live
    optimizer: torch.optim.Optimizer | None = None

    @staticmethod
    def make(question: Question, batch: int | None, setting: Setting, device: str) -> Loop:
        inputs = question.inputs(batch)
        live = Live.make(question.recipe, inputs, device, question.seed, setting, question.phase)
        refuse_scripted(live.model)
        checkpoint_modules(live.model, setting.checkpoints, nullcontext)
        if question.phase != "train":
            return Loop(live)
        trainable = [parameter for parameter in live.model.parameters() if parameter.requires_grad]
        return Loop(live, _OPTIMIZERS[question.optimizer](trainable))

    def __call__(self) -> None:
        if self.optimizer is None:
            with torch.no_grad():
                self.live()
            return
        self.optimizer.zero_grad(set_to_none=True)
        roots = differentiable(self.live())
        torch.autograd.backward(roots, [torch.ones_like(root) for root in roots])
        self.optimizer.step()

    def held(self) -> int:
        """Bytes of model, inputs and optimizer state before a step."""
        live = self.live
        tensors = [*live.model.parameters(), *live.model.buffers()]
        tensors += [leaf for leaf in tree_leaves((live.args, live.kwargs)) if isinstance(leaf, torch.Tensor)]
        if self.optimizer is not None:
            states = self.optimizer.state.values()
            tensors += [v for state in states for v in state.values() if isinstance(v, torch.Tensor)]
        return sum({id(t.untyped_storage()): t.untyped_storage().nbytes() for t in tensors}.values())


_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=1e-4, foreach=True),
    "momentum": partial(torch.optim.SGD, lr=1e-4, momentum=0.9, foreach=True),
    "adam": partial(torch.optim.Adam, lr=1e-4, foreach=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-4, foreach=True),
}
"""`foreach`, which is the default on CUDA only, on every device."""
