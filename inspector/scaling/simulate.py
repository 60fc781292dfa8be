"""One rank of a parallel step, run on fake tensors and recorded.

The order is that of a user's program: the model is built without memory, split by torch's own code, given
its memory, and trained. The step that counts is one in the middle of a training: the optimizer has its state,
and DDP the buckets that it makes after its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from inspector.core.collection import paused
from inspector.core.errors import InspectError, first_line
from inspector.core.naming import select
from inspector.models import Recipe
from inspector.models.inputs import Inputs, materialise
from inspector.scaling import world
from inspector.scaling.communication import Collective, collectives
from inspector.scaling.layout import Layout
from inspector.scaling.parallelize import materialise as give_memory
from inspector.scaling.parallelize import replicated, shard
from inspector.tracing import _torch
from inspector.tracing._torch import tree_map
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.isolate import countable_kernels, random_state, seed_all
from inspector.tracing.capture.kernels import Kernels, On, choosing
from inspector.tracing.capture.modules import all_paths, places_of
from inspector.tracing.capture.parallel import COMMUNICATION, ParallelRecorder
from inspector.tracing.capture.setting import checkpoint_modules
from inspector.tracing.capture.state import state_entries
from inspector.tracing.describe import describe_call
from inspector.tracing.record import Module, Trace

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


@dataclass(frozen=True)
class Rank:
    """What was recorded of a rank: the step as a trace, and its collectives."""

    rank: int
    trace: Trace
    collectives: tuple[Collective, ...]


def simulate_rank(question: Question, layout: Layout, rank: int) -> Rank:
    """The step of one rank. Raises InspectError for what cannot run on tensors without values."""
    with ExitStack() as stack:
        for guard in (paused(), random_state(), countable_kernels()):
            stack.enter_context(guard)
        mesh = stack.enter_context(world.fake_world(layout, rank))
        seed_all(question.seed)
        model = _built(question)
        stack.enter_context(question.recipe.context(model))
        state = state_entries(model)
        args, kwargs = materialise(question.inputs, model, "meta", question.seed)
        fake = _torch.FakeTensorMode(allow_non_fake_inputs=True)
        recorder = ParallelRecorder(places_of(all_paths(model)), fake)
        on = stack.enter_context(choosing(question.kernels, recorder.named))
        _checkpointed(model, layout, on)
        shard(model, layout, mesh)
        stack.enter_context(fake)
        give_memory(model)
        args, kwargs = tree_map(_fake_input(question, fake), (args, kwargs))
        step = Step(model, args, kwargs, layout, question, mesh, recorder, on)
        try:
            step.prepare()
            step.run()
        except (InspectError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise _refusal(question.recipe.name, recorder, error) from error
        if recorder.recomputes and question.kernels.autocast and not layout.checkpoints:
            raise InspectError(
                "the model checkpoints its own parts, whose recomputation under autocast is not simulated",
                "use `param_dtype=` in place of `amp=`, or `checkpoint_activations=`",
            )
        trace = Trace(
            model=question.recipe.name,
            source=question.recipe.source,
            phase=question.phase,
            device="meta",
            inputs=tuple(describe_call(args, kwargs)),
            ops=step.ops,
            storages=step.storages,
            modules=_modules(model, recorder.calls),
            state=state,
            notes=(*question.recipe.notes, *recorder.notes, *step.notes),
        )
        return Rank(rank, trace, tuple(collectives(recorder.raw, world.sizes(mesh))))


def _built(question: Question) -> nn.Module:
    model = question.recipe.build("meta", question.seed)
    if question.dtype is not None:
        model = model.to(getattr(torch, question.dtype))
    return model.train(question.phase == "train")


def _checkpointed(model: nn.Module, layout: Layout, on: On) -> None:
    if layout.checkpoints:
        names = [path for path, _ in model.named_modules() if path]
        paths = select(names, layout.checkpoints, "module", "checkpoint_activations")
        chosen = set(paths)
        outer = [p for p in paths if not any(p.startswith(f"{other}.") for other in chosen)]
        checkpoint_modules(model, outer, on)


def _fake_input(question: Question, fake: Any) -> Callable[[Any], Any]:
    dtype = getattr(torch, question.dtype) if question.dtype else None

    def made(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        chosen = dtype if dtype is not None and value.is_floating_point() else value.dtype
        with fake:
            return torch.empty_strided(value.shape, value.stride(), dtype=chosen, device="cpu")

    return made


def _refusal(name: str, recorder: ParallelRecorder, error: Exception) -> InspectError:
    """Why a step stopped, where, and that it was the lack of values if it was."""
    where = f" in module {recorder.failure.module!r}" if recorder.failure is not None else ""
    kind = type(error).__name__
    if "more than 1 value per channel" in str(error):
        return InspectError(str(error), "pass `batch=2` or more")
    if kind in ("DataDependentOutputException", "DynamicOutputShapeException"):
        text = f"{name} depends on values{where} ({first_line(error)}), which simulated ranks do not have"
        return InspectError(text, "count it on one device with `inspector.memory`")
    return InspectError(
        f"a simulated rank of {name} stopped{where}: {kind}: {first_line(error)}",
        "check that the model trains in one process, and that its sizes divide by the mesh",
    )


def _modules(model: nn.Module, calls: Mapping[str, int]) -> tuple[Module, ...]:
    return tuple(
        Module(path, type(module).__name__, calls.get(path, 0)) for path, module in model.named_modules()
    )


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor."""
    with torch.no_grad():
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Step:
    """A training step of one rank, repeated: `prepare` runs what comes before the one that `run` records."""

    def __init__(
        self, model: nn.Module, args: Any, kwargs: Any, layout: Layout, question: Question, mesh: Any,
        recorder: ParallelRecorder | None = None, on: On = nullcontext,
    ) -> None:  # fmt: skip
        self.bare, self.args, self.kwargs = model, args, kwargs
        self.layout, self.question, self.mesh = layout, question, mesh
        self.recorder, self.on = recorder, on
        self.optimizer: torch.optim.Optimizer | None = None
        self.notes: tuple[str, ...] = ()
        self._locals: list[tuple[nn.Parameter, nn.Parameter]] = []
        self.wrapped: Any = replicated(model, mesh) if layout.replicated and question.optimizer else model
        if recorder is not None and layout.fully_sharded:  # it pads shards at its first forward
            _torch.start_fsdp(_torch.fsdp_state_of(model))
        if question.optimizer is not None:
            self.optimizer = self._optimizer(question.optimizer)

    def _optimizer(self, name: str) -> torch.optim.Optimizer:
        """torch's own, in lists of tensors as it takes them on a GPU. FSDP2 gives each shard a gradient split
        alike: the step is that of the local tensors, without what DTensors cost in Python. Under tensor
        parallelism alone a gradient may be split in another way than its parameter."""
        parameters = [p for p in self.bare.parameters() if p.requires_grad]
        more: dict[str, Any] = {}
        if self.recorder is not None:
            if self.layout.fully_sharded:
                self._locals = [(p, nn.Parameter(local(p).detach())) for p in parameters]
                parameters = [twin for _, twin in self._locals]
            if self.question.kernels.device == "cuda":
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
        """Give the optimizer its state, and DDP its buckets."""
        if self.optimizer is None:
            return
        if self.layout.replicated:
            if self.recorder is not None:
                self.wrapped.register_comm_hook(None, lambda state, bucket: self._all_reduced(bucket))
            for _ in self.passes():
                pass
            with world.RealIndices() if self.recorder is not None else nullcontext():
                _torch.rebuild_buckets(self.wrapped.reducer)
        else:
            for parameter in self.bare.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)
        self.optimize()
        self.bare.zero_grad()

    def optimize(self) -> None:
        """The optimizer's step on the gradients that are there."""
        assert self.optimizer is not None
        for parameter, twin in self._locals:
            twin.grad = local(parameter.grad) if parameter.grad is not None else None
        self.optimizer.step()
        for _, twin in self._locals:
            twin.grad = None

    def _all_reduced(self, bucket: Any) -> Any:
        """What DDP does with a bucket, in Python: the futures of a fake group of torch 2.15 are empty."""
        buffer = bucket.buffer()
        recorder = self.recorder
        assert recorder is not None
        with recorder.at("", COMMUNICATION):
            if self.recording:
                recorder.claim(buffer, COMMUNICATION)
            buffer.div_(self.layout.mesh["dp"])
            dist.all_reduce(buffer, group=self.mesh.get_group("dp"))
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(buffer)
        return future

    recording = False

    def passes(self) -> Iterator[str]:
        """Forward and backward of each batch of a step; says which comes before it runs."""
        for number in range(self.layout.accumulate):
            last = number == self.layout.accumulate - 1
            with self._synchronised(last):
                yield "forward"
                with self.on():
                    outputs = self.wrapped(*self.args, **self.kwargs)
                roots = differentiable(outputs)
                if not roots:
                    raise InspectError(
                        "no output requires grad: there is no backward", 'choose `phase="forward"`'
                    )
                seeds = [torch.ones_like(root) for root in roots]
                del outputs
                yield "backward"
                with self._recomputing():
                    torch.autograd.backward(roots, seeds)
                del roots, seeds

    def _recomputing(self) -> AbstractContextManager[Any]:
        """A model that checkpoints its own parts runs their forward again in the backward, with the kernels
        of the first. Autocast is off there, but in what `checkpoint_modules` wraps."""
        return self.on() if self.question.kernels.autocast is None else nullcontext()

    def _synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are reduced in the backward of the last batch alone."""
        if self.layout.replicated and not last:
            return self.wrapped.no_sync()  # type: ignore[no-any-return]
        if self.layout.fully_sharded:
            self.bare.set_requires_gradient_sync(last)  # type: ignore[operator]
        return nullcontext()

    def run(self) -> None:
        """One step, recorded; then `ops` and `storages` are there."""
        recorder = self.recorder
        assert recorder is not None
        self.recording = True
        recorder.trains = self.optimizer is not None
        self._hold_state()
        with torch.set_grad_enabled(recorder.trains), recorder.recording():
            if self.optimizer is None:
                with self.on():
                    outputs = self.wrapped(*self.args, **self.kwargs)
                self._close()
                del outputs
                return
            for phase in self.passes():
                if phase == "backward":
                    recorder.begin_backward()
                else:
                    recorder.phase = phase
            recorder.phase = "optimizer"
            self.optimize()
            self._close()

    def _close(self) -> None:
        """While results and gradients live."""
        recorder = self.recorder
        assert recorder is not None
        for path, module in self.bare.named_modules():
            for parameter in module.parameters(recurse=False):
                if parameter.grad is not None:
                    recorder.claim(parameter.grad, "gradient", path)
        self.storages = recorder.lifetimes()
        self.ops = recorder.ops()

    def _hold_state(self) -> None:
        recorder = self.recorder
        assert recorder is not None
        for path, module in self.bare.named_modules():
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
            assert self.recorder is not None
            self.recorder.hold(value, "input")
        return value
