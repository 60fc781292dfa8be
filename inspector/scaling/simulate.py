"""One rank of a parallel step, run on fake tensors and recorded.

The order is that of a user's program: the model is built without memory, split by torch's own code, given
its memory, and trained. The step that counts is one in the middle of a training: the optimizer has its state,
and DDP the buckets that it makes after its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from inspector.core.collection import paused
from inspector.core.errors import InspectError, first_line
from inspector.core.naming import select
from inspector.models.inputs import materialise
from inspector.scaling import world
from inspector.scaling.communication import Collective, collectives
from inspector.scaling.layout import Layout
from inspector.scaling.parallelize import Names, shard
from inspector.scaling.parallelize import materialise as give_memory
from inspector.scaling.step import Question, Step, WholeStep
from inspector.tracing import _torch
from inspector.tracing._torch import tree_map
from inspector.tracing.capture.isolate import countable_kernels, random_state, seed_all
from inspector.tracing.capture.kernels import On, choosing
from inspector.tracing.capture.modules import Shared, all_paths, places_of
from inspector.tracing.capture.parallel import ParallelRecorder
from inspector.tracing.capture.setting import checkpoint_modules
from inspector.tracing.capture.state import state_entries
from inspector.tracing.describe import describe_call
from inspector.tracing.record import Module, StateEntry, Trace

if TYPE_CHECKING:
    from inspector.scaling.stages import Line, Stages


@dataclass(frozen=True)
class Rank:
    """What was recorded of a rank: the step as a trace, its collectives, what the backward starts from, its
    work in a pipeline, and the bytes of each copy between host and device."""

    rank: int
    trace: Trace
    collectives: tuple[Collective, ...]
    loss: str = "none"
    line: Line | None = None
    copies: Mapping[str, Sequence[int]] = field(default_factory=dict)


def simulate_rank(question: Question, layout: Layout, rank: int, built: nn.Module | None = None) -> Rank:
    """The step of one rank. `built`: the model on meta, where there is one already, which is used up. Raises
    InspectError for what cannot run on tensors without values."""
    with ExitStack() as stack:
        for guard in (paused(), random_state(), countable_kernels()):
            stack.enter_context(guard)
        world.refuse_busy()
        seed_all(question.seed)
        whole = _built(question, built)
        stack.enter_context(question.recipe.context(whole))
        args, kwargs = materialise(question.inputs, whole, "meta", question.seed)
        names = Names.of(whole, layout, args, kwargs)
        mesh = stack.enter_context(world.fake_world(layout, rank))
        fake = _torch.FakeTensorMode(allow_non_fake_inputs=True)
        places: dict[int, str | Shared] = {}
        recorder = ParallelRecorder(places, fake)
        on = stack.enter_context(choosing(question.kernels, recorder.named))
        models, stages = [whole], None
        if layout.pipeline > 1:
            from inspector.scaling.stages import Stages, as_called  # a second, for its import

            called = as_called(whole, args, kwargs, question)
            stages = Stages.of(whole, layout, mesh.get_local_rank("pp"), *called, on, question.recipe.name)
            models = [deepcopy(whole) for _ in stages.numbers]
        state = _split(models, stages, layout, mesh, names, on)
        places.update(entry for model in models for entry in places_of(all_paths(model)).items())
        stack.enter_context(fake)
        with recorder.unrecorded():
            for model in models:
                give_memory(model)
        args, kwargs = tree_map(_fake_input(question, fake), (args, kwargs))
        words = models, args, kwargs, layout, question, mesh, recorder, on
        try:
            step: Step = WholeStep(*words) if stages is None else stages.step(*words)
            step.prepare()
            step.run()
        except (InspectError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise _refusal(question.recipe.name, recorder, error) from error
        _refuse_recomputation(recorder, question, layout)
        trace = Trace(
            model=question.recipe.name,
            source=question.recipe.source,
            phase=question.phase,
            device="meta",
            inputs=tuple(describe_call(args, kwargs)),
            ops=step.ops,
            storages=step.storages,
            modules=_modules(models, recorder.calls),
            state=state,
            notes=(*question.recipe.notes, *recorder.notes, *step.notes),
        )
        sent = tuple(collectives(recorder.raw, world.sizes(mesh)))
        return Rank(rank, trace, sent, step.loss, step.line(), recorder.copies)


def _split(
    models: Sequence[nn.Module], stages: Stages | None, layout: Layout, mesh: DeviceMesh, names: Names, on: On
) -> tuple[StateEntry, ...]:
    """Make `models`, copies of the whole one, what this rank holds of it, in place. Returns the state that
    is split."""
    for model in models:
        _checkpointed(model, layout, on)
    if stages is not None:
        stages.keep(models)
    state = tuple(entry for model in models for entry in state_entries(model))
    for model in models:
        shard(model, layout, mesh, names if stages is None else names.of_part(model))
    return state


def _refuse_recomputation(recorder: ParallelRecorder, question: Question, layout: Layout) -> None:
    if recorder.recomputes and question.kernels.autocast and not layout.checkpoints:
        raise InspectError(
            "the model checkpoints its own parts, whose recomputation under autocast is not simulated",
            "use `param_dtype=` in place of `amp=`, or `checkpoint_activations=`",
        )


def _built(question: Question, built: nn.Module | None) -> nn.Module:
    model = built if built is not None else question.recipe.build("meta", question.seed)
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


def _modules(models: Sequence[nn.Module], calls: Mapping[str, int]) -> tuple[Module, ...]:
    """Each path once: the stages of a pipeline have the model's own paths."""
    kinds = {path: type(module).__name__ for model in models for path, module in model.named_modules()}
    return tuple(Module(path, kind, calls.get(path, 0)) for path, kind in kinds.items())
