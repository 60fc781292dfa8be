"""The step of one rank of a pipeline: torch's own stages and schedules, on fake tensors."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
)

from inspector.core.errors import InspectError
from inspector.scaling.layout import BACKWARD, FORWARD, Action, Layout
from inspector.scaling.parallelize import refusing
from inspector.scaling.pipeline import TARGETS, Cut, find_cut, first_tensor, keep, microbatch, verify
from inspector.scaling.step import Question, Step, said_of
from inspector.tracing import _torch
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.kernels import On
from inspector.tracing.capture.parallel import COMMUNICATION
from inspector.tracing.formulas.traffic import tensors

_PLAIN = torch.empty(0)
_KINDS = {"FORWARD": FORWARD, "FULL_BACKWARD": BACKWARD}
_SCHEDULES: dict[str, Any] = {
    "gpipe": ScheduleGPipe,
    "1f1b": Schedule1F1B,
    "interleaved": ScheduleInterleaved1F1B,
}


@dataclass(frozen=True)
class Line:
    """What a rank does in a pipeline. `stages`: what each holds, in words. `order`: the actions of every rank
    of the pipeline, as torch's schedule has them. `mine`: those of this rank as they ran, each with the range
    of its operators in the record. `hidden`: bytes that pass from a stage to the next."""

    blocks: str
    stages: tuple[str, ...]
    counts: tuple[int, ...]
    microbatches: int
    hidden: int
    order: tuple[tuple[Action, ...], ...]
    mine: tuple[tuple[Action, int, int], ...]


def as_called(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], question: Question
) -> tuple[list[Any], dict[str, Any]]:
    """The inputs as a pipeline takes them: the first by position, which the later stages get from each
    other, and the rest by name, for all stages."""
    if question.optimizer is None or question.recipe.call != "forward":
        raise InspectError("a pipeline is simulated in training", 'use `phase="train"`, without `call=`')
    values = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    name = next(iter(inspect.signature(model.forward).parameters))
    first = values.pop(name, None)
    if not isinstance(first, Tensor):
        raise InspectError(
            f"a pipeline sends its stages the first input of the forward, {name}, which is no tensor",
            f"pass {name} as a tensor",
        )
    return [first], values


@dataclass(frozen=True)
class Stages:
    """Those of one rank: `numbers` among all `count`."""

    cut: Cut
    count: int
    numbers: tuple[int, ...]
    microbatches: int
    inputs: Any
    on: On

    @staticmethod
    def of(
        model: nn.Module, layout: Layout, place: int, args: Sequence[Any], kwargs: Mapping[str, Any], on: On,
        name: str,
    ) -> Stages:  # fmt: skip
        """The stages of the rank at `place` of the pipeline: every `pp`-th, as torch's schedules have it."""
        batch = args[0].shape[0]
        count = layout.microbatches or batch
        if layout.schedule == "1f1b" and count < layout.pipeline:
            raise InspectError(
                f"1f1b needs a microbatch for each of {layout.pipeline} stages, but has {count}",
                f'use e.g. `batch={layout.pipeline}`, or `schedule="gpipe"`',
            )
        parts = microbatch(args, kwargs, count)
        cut = find_cut(model, layout.stages, *parts, on, name)
        numbers = tuple(range(place, layout.stages, layout.pipeline))
        return Stages(cut, layout.stages, numbers, count, parts, on)

    def keep(self, models: Sequence[nn.Module]) -> None:
        """Make copies of the model the stages of this rank, in place."""
        args, kwargs = self.inputs
        for number, model in zip(self.numbers, models):
            keep(model, self.cut, self.count, number)
            verify(model, self.cut, self.count, number, args, kwargs, self.on)

    def step(self, *words: Any) -> Step:
        return PipelinedStep(*words, self)


class _Stage(PipelineStage):
    """torch's, which tells when a microbatch begins and ends."""

    chunk: Callable[[str, int, int], Any]
    received: Callable[[Tensor], object]
    gives: Tensor

    def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        with self.chunk(FORWARD, self.stage_index, fwd_chunk_id):
            output = super().forward_one_chunk(fwd_chunk_id, *args, **kwargs)
        if not self.is_last:
            _compare(output, self.gives, self.stage_index)
        return output

    def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
        with self.chunk(BACKWARD, self.stage_index, bwd_chunk_id):
            return super().backward_one_chunk(bwd_chunk_id, *args, **kwargs)

    def get_bwd_recv_ops(self, bwd_chunk_id: int) -> Any:
        operations = super().get_bwd_recv_ops(bwd_chunk_id)
        for operation in operations:
            self.received(operation.tensor)
        return operations


def _compare(output: Tensor, expected: Tensor, stage: int) -> None:
    """What a stage gives must be what torch was told, because the next one receives that."""
    one, other = (output.shape, output.dtype), (expected.shape, expected.dtype)
    if one != other:
        raise InspectError(
            f"stage {stage} of the pipeline gives {output.dtype} {tuple(output.shape)}, where the blocks of"
            f" the whole model pass on {expected.dtype} {tuple(expected.shape)}",
            "use `dtype=` in place of `amp=` or `param_dtype=`",
        )


def _release_sent(stage: PipelineStage) -> None:
    """Let a stage let go of a fake tensor that was sent as it does of a plain one."""
    asks: Any = getattr(stage, _torch.STAGE_RELEASES, None)
    if asks is not None:

        def releases(output: Any) -> Any:
            return asks(_PLAIN if isinstance(output, _torch.FakeTensor) else output)

        setattr(stage, _torch.STAGE_RELEASES, releases)


class _Stub(nn.Module):
    """In place of a stage before the first step, in which torch makes its buffers."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, value: Tensor, **_: Any) -> Tensor:
        made = self.output * 1
        return made + value.sum() * 0 if value.requires_grad else made


class PipelinedStep(Step):
    """A step of one rank of a pipeline."""

    def __init__(self, *words: Any) -> None:
        *words_of_step, self.stages = words
        super().__init__(*words_of_step)
        self.args, self.kwargs = as_called(self.models[0], self.args, self.kwargs, self.question)
        self.first, self.last = 0 in self.stages.numbers, self.stages.count - 1 in self.stages.numbers
        self.target = next((self.kwargs[name] for name in TARGETS if name in self.kwargs), self.args[0])
        self.args = self.args if self.first else []
        if not self.last:
            self.kwargs = {name: value for name, value in self.kwargs.items() if name not in TARGETS}
        self.mine: list[tuple[Action, int, int]] = []
        self.recording = False
        self.parts = [self._stage(number, model) for number, model in zip(self.stages.numbers, self.models)]
        alone = self.layout.schedule != "interleaved"
        self.schedule = refusing(
            f"the schedule {self.layout.schedule}", _SCHEDULES[self.layout.schedule or ""],
            self.parts[0] if alone else self.parts, self.stages.microbatches,
            loss_fn=lambda output, target: output.reshape(()),
        )  # fmt: skip

    def hidden(self) -> Tensor:
        """What passes between stages; FSDP2's mixed precision turns it into the parameters' type."""
        shape, dtype = self.stages.cut.hidden.shape, self.stages.cut.hidden.dtype
        if self.layout.fully_sharded and self.layout.param_dtype:
            dtype = getattr(torch, self.layout.param_dtype)
        return torch.empty(shape, dtype=dtype, device="cpu", requires_grad=True)

    def _stage(self, number: int, model: nn.Module) -> _Stage:
        """A stage of which torch knows the shapes, so that it asks no other rank."""
        last = number == self.stages.count - 1
        taken = self.hidden() if number else self.inputs_of_first()
        given = torch.empty(1, requires_grad=True) if last else self.hidden()
        self._return_one(model, last)
        stage = _Stage(
            model, number, self.stages.count, torch.device("cpu"), input_args=(taken,), output_args=(given,),
            group=self.mesh.get_group("pp"),
        )  # fmt: skip
        stage.chunk, stage.received, stage.gives = self._chunk, self._received, given
        _release_sent(stage)
        return stage

    def inputs_of_first(self) -> Tensor:
        part = self.stages.inputs[0][0]
        return torch.empty(part.shape, dtype=self.args[0].dtype, device="cpu")

    def _return_one(self, model: nn.Module, last: bool) -> None:
        """Let the model return one tensor: what it sends, or its loss."""
        forward = model.forward

        def run(*args: Any, **kwargs: Any) -> Tensor:
            if not last:
                kwargs = {name: value for name, value in kwargs.items() if name not in TARGETS}
            with self.on():
                outputs = forward(*args, **kwargs)
            if not last:
                return first_tensor(outputs)
            roots = differentiable(outputs)
            if not roots:
                raise InspectError("no output requires grad: there is no backward", "train some parameters")
            self.loss = said_of(roots)
            losses = [root if root.numel() == 1 else root.sum() for root in roots]
            return sum(losses[1:], losses[0]).reshape(1).float()  # torch joins those of all microbatches

        model.forward = run

    def _start(self) -> None:
        """Let torch make the buffers of its stages: a step without the models' work."""
        for part, model in zip(self.parts, self.models):
            shape = (1,) if part.is_last else self.hidden().shape
            dtype = torch.float32 if part.is_last else self.hidden().dtype
            part.submod = _Stub(torch.empty(shape, dtype=dtype, requires_grad=True))
        self._steps()
        for part, model in zip(self.parts, self.models):
            part.submod = model
        super()._start()

    def _steps(self) -> None:
        target = {"target": self.target} if self.last else {}
        self.schedule.step(*self.args, **target, **self.kwargs)

    def _pass(self) -> None:
        self.recording = True
        with self.recorder.at("", "intermediate"):
            self._steps()
        self._claim_buffers()

    @contextmanager
    def _chunk(self, kind: str, stage: int, number: int) -> Iterator[None]:
        """The work of one microbatch in one stage."""
        recorder = self.recorder
        if not self.recording:
            yield
            return
        start = len(recorder.raw)
        if kind == FORWARD:
            recorder.phase = "forward"
            yield
        else:
            recorder.begin_backward()
            with recorder.unplaced(), self._recomputing():
                yield
        self.mine.append((Action(kind, stage, number), start, len(recorder.raw)))

    def _received(self, gradient: Tensor) -> None:
        if self.recording:
            self.recorder.claim(gradient, COMMUNICATION)

    def _claim_buffers(self) -> None:
        """What torch 2.8 receives into was there before the step."""
        recorder = self.recorder
        for call in recorder.raw:
            if call.operator.name == "c10d.recv_":
                for spec in tensors(call.args[0]):
                    if spec.storage >= 0 and recorder.storages[spec.storage][2] == "constant":
                        recorder.storages[spec.storage][2] = COMMUNICATION

    def line(self) -> Line:
        stages, cut = self.stages, self.stages.cut
        orders = self.schedule.pipeline_order
        order = tuple(tuple(_actions(orders[place])) for place in range(self.layout.pipeline))
        mine = tuple(action for action, _, _ in self.mine)
        if tuple(mine) != order[self.mesh.get_local_rank("pp")]:
            raise InspectError(
                f"torch's {self.layout.schedule} ran in another order than it lists", "use another schedule"
            )
        hidden = self.hidden()
        return Line(
            cut.path, tuple(cut.described(stages.count)), tuple(map(len, cut.owned(stages.count))),
            stages.microbatches, hidden.numel() * hidden.element_size(), order, tuple(self.mine),
        )  # fmt: skip


def _actions(listed: Sequence[Any]) -> Iterator[Action]:
    """Forwards and backwards in torch's list, which has None where a rank waits. Microbatches are counted
    here: on its last rank the list of Schedule1F1B names them from 1 (torch 2.8 to 2.15)."""
    count: Counter[tuple[str, int]] = Counter()
    for entry in listed:
        kind = None if entry is None else _KINDS.get(entry.computation_type.name)
        if kind is not None:
            yield Action(kind, entry.stage_index, count[kind, entry.stage_index])
            count[kind, entry.stage_index] += 1
