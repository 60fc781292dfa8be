"""A training step of one rank on fake tensors, as a user's program runs it, and its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from inspector.core.errors import InspectError
from inspector.models import Recipe
from inspector.models.inputs import Inputs
from inspector.scaling import world
from inspector.scaling.layout import Layout
from inspector.scaling.parallelize import replicated
from inspector.tracing import _torch
from inspector.tracing._torch import tree_map
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.kernels import Kernels, On
from inspector.tracing.capture.parallel import COMMUNICATION, ParallelRecorder

_LR = 1e-3
_ONE_BY_ONE = (
    "the optimizer steps one tensor after another: torch takes no lists that mix DTensors and other tensors"
)


@dataclass(frozen=True)
class Question:
    """A model and how a rank trains it. `kernels`: those of the device that is meant; `optimizer` None runs
    the forward alone. `dtype`: of weights and inputs."""

    recipe: Recipe
    inputs: Inputs
    optimizer: str | None
    kernels: Kernels
    dtype: str | None = None
    seed: int = 0

    @property
    def phase(self) -> str:
        return "forward" if self.optimizer is None else "train"


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Step:
    """A training step of one rank, repeated: `prepare` runs what comes before the one that `run` records."""

    def __init__(
        self, models: Sequence[nn.Module], args: Any, kwargs: Any, layout: Layout, question: Question,
        mesh: Any, recorder: ParallelRecorder, on: On = nullcontext,
    ) -> None:  # fmt: skip
        self.models, self.args, self.kwargs = list(models), args, kwargs
        self.layout, self.question, self.mesh = layout, question, mesh
        self.recorder, self.on = recorder, on
        self.optimizer: torch.optim.Optimizer | None = None
        self.notes: tuple[str, ...] = ()
        self._locals: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.loss = "none"
        self._stepped = 0
        if layout.fully_sharded:  # it pads shards at its first forward
            for model in self.models:
                _torch.start_fsdp(_torch.fsdp_state_of(model))
        if question.optimizer is not None:
            self.optimizer = self._optimizer(question.optimizer)

    def parameters(self) -> list[nn.Parameter]:
        """Those that train."""
        return [p for model in self.models for p in model.parameters() if p.requires_grad]

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        """torch's own, in lists of tensors as it takes them on a GPU. FSDP2 gives each shard a gradient split
        alike: the step is that of the local tensors, without what DTensors cost in Python. Under tensor
        parallelism alone a gradient may be split in another way than its parameter."""
        parameters = self.parameters()
        more: dict[str, Any] = {}
        if self.layout.fully_sharded:
            self._locals = [(p, nn.Parameter(local(p).detach())) for p in parameters]
            parameters = [twin for _, twin in self._locals]
        if self.question.kernels.device == "cuda" and not self.layout.offload:
            more["foreach"] = len({isinstance(p, DTensor) for p in parameters}) == 1
            if not more["foreach"]:
                self.notes += (_ONE_BY_ONE,)
        kind: Any = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.get(name, torch.optim.SGD)
        if name == "momentum":
            more["momentum"] = 0.9
        if self.layout.shard == "zero1" and self.layout.replicated:
            from torch.distributed.optim import ZeroRedundancyOptimizer

            return ZeroRedundancyOptimizer(
                parameters, kind, process_group=self.mesh.get_group("dp"), lr=_LR, **more
            )
        return kind(parameters, lr=_LR, **more)  # type: ignore[no-any-return]

    def prepare(self) -> None:
        """Run what comes before the step that counts."""
        if self.optimizer is not None:
            self._start()
            with self.recorder.unrecorded():
                self._update()
            for model in self.models:
                model.zero_grad()

    def _start(self) -> None:
        """Give each parameter a gradient, from which the optimizer makes its state."""
        parameters = [twin for _, twin in self._locals] or self.parameters()
        with self.recorder.unrecorded():
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)

    def optimize(self) -> None:
        """The optimizer's step on the gradients that are there."""
        for parameter, twin in self._locals:
            twin.grad = local(parameter.grad) if parameter.grad is not None else None
        self._update()

    def _update(self) -> None:
        assert self.optimizer is not None
        self.optimizer.step()
        for _, twin in self._locals:
            twin.grad = None

    def run(self) -> None:
        """One step, recorded; then `ops` and `storages` are there."""
        recorder = self.recorder
        recorder.trains, recorder.offloads = self.optimizer is not None, self.layout.offload
        self._hold_state()
        with torch.set_grad_enabled(recorder.trains), recorder.recording():
            if self.optimizer is None:
                with self.on():
                    outputs = self.forward()
                self._close()
                del outputs
                return
            self._pass()
            recorder.phase, self._stepped = "optimizer", len(recorder.storages)
            self.optimize()
            self._close()

    def line(self) -> Any:
        """Of a pipeline: what this rank does there."""
        return None

    def forward(self) -> Any:
        """The forward alone."""
        raise NotImplementedError

    def _pass(self) -> None:
        """Forward and backward of all batches of a step."""
        raise NotImplementedError

    def _recomputing(self) -> AbstractContextManager[Any]:
        """A model that checkpoints its own parts runs their forward again in the backward, with the kernels
        of the first. Autocast is off there, but in what `checkpoint_modules` wraps."""
        return self.on() if self.question.kernels.autocast is None else nullcontext()

    def _close(self) -> None:
        """While results and gradients live."""
        recorder = self.recorder
        for path, module in self._modules():
            for parameter in module.parameters(recurse=False):
                if parameter.grad is not None:
                    recorder.claim(parameter.grad, "gradient", path)
        if self.layout.offload:
            recorder.leave_on_host(self._stepped if self.optimizer is not None else len(recorder.storages))
        self.storages = recorder.lifetimes()
        self.ops = recorder.ops()

    def _modules(self) -> Iterator[tuple[str, nn.Module]]:
        for model in self.models:
            yield from model.named_modules()

    def _hold_state(self) -> None:
        recorder = self.recorder
        for path, module in self._modules():
            for parameter in module.parameters(recurse=False):
                recorder.hold(parameter, "parameter", path)
                recorder.own(parameter, path)
            for buffer in module.buffers(recurse=False):
                recorder.hold(buffer, "buffer", path)
        stepping = getattr(self.optimizer, "optim", self.optimizer)  # of ZeRO: this rank's own
        for tensors in getattr(stepping, "state", {}).values():
            for tensor in tensors.values():
                if isinstance(tensor, Tensor):
                    recorder.hold(tensor, "optimizer state")
        tree_map(self._hold_input, (self.args, self.kwargs))

    def _hold_input(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            self.recorder.hold(value, "input")
        return value


class WholeStep(Step):
    """A step in which every rank runs the whole model, or its part of each layer."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.bare = self.models[0]
        self.recording = False
        trains = self.optimizer is not None
        self.wrapped: Any = (
            replicated(self.bare, self.mesh) if self.layout.replicated and trains else self.bare
        )

    def forward(self) -> Any:
        return self.wrapped(*self.args, **self.kwargs)

    def _start(self) -> None:
        """As `Step`; under DDP a pass, after which it makes its buckets."""
        if not self.layout.replicated:
            super()._start()
            return
        self.wrapped.register_comm_hook(None, lambda state, bucket: self._all_reduced(bucket))
        for _ in self.passes():
            pass
        with world.RealIndices():
            _torch.rebuild_buckets(self.wrapped.reducer)

    def _all_reduced(self, bucket: Any) -> Any:
        """What DDP does with a bucket, in Python: the futures of a fake group of torch 2.15 are empty."""
        buffer = bucket.buffer()
        with self.recorder.at("", COMMUNICATION):
            if self.recording:
                self.recorder.claim(buffer, COMMUNICATION)
            buffer.div_(self.layout.mesh["dp"])
            dist.all_reduce(buffer, group=self.mesh.get_group("dp"))
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(buffer)
        return future

    def _pass(self) -> None:
        self.recording = True
        for phase in self.passes():
            if phase == "backward":
                self.recorder.begin_backward()
            else:
                self.recorder.phase = phase

    def passes(self) -> Iterator[str]:
        """Forward and backward of each batch of a step; says which comes before it runs."""
        for number in range(self.layout.accumulate):
            last = number == self.layout.accumulate - 1
            with self._synchronised(last):
                yield "forward"
                with self.on():
                    outputs = self.forward()
                roots = differentiable(outputs)
                if not roots:
                    raise InspectError(
                        "no output requires grad: there is no backward", 'choose `phase="forward"`'
                    )
                self.loss = said_of(roots)
                seeds = [torch.ones_like(root) for root in roots]
                del outputs
                yield "backward"
                with self._recomputing():
                    torch.autograd.backward(roots, seeds)
                del roots, seeds

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are reduced in the backward of the last batch alone."""
        if self.layout.replicated and not last:
            return self.wrapped.no_sync()  # type: ignore[no-any-return]
        if self.layout.fully_sharded:
            self.bare.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()


def said_of(roots: Sequence[Tensor]) -> str:
    """What the backward starts from, in words."""
    if len(roots) == 1 and roots[0].numel() == 1:
        return "the model's own"
    what = "its output" if len(roots) == 1 else f"its {len(roots)} outputs"
    return f"the sum of {what} (the model returns no loss)"
