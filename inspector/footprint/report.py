"""Predict the peak memory of inference or a training step on a CUDA device, without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from inspector.core.devices import named
from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.footprint import OPTIMIZERS, Plan, sections, simulate
from inspector.footprint.calibration import Calibration
from inspector.footprint.cublas import Workspaces
from inspector.footprint.question import Question, largest_batch, parse_size
from inspector.footprint.workspaces import Rules
from inspector.models import Model, as_recipe
from inspector.profiling.run import BATCH_OF_TWO, needs_two
from inspector.reporting.report import Report
from inspector.tracing.capture import ForwardError
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.record import Trace

SHARDS = ("ddp", "fsdp")
"""How the processes of `world_size=` share the model."""

_TRIALS = 12
"""About how many batches a search tries: for its progress alone."""


def memory(
    model: Model | Trace,
    inputs: Any = None,
    *,
    batch: int | None = None,
    phase: str = "forward",
    optimizer: str | None = None,
    amp: bool = False,
    dtype: str | None = None,
    master_weights: bool = False,
    checkpoint_activations: Sequence[str] = (),
    attention: str = "fused",
    gpu: str | None = None,
    calibrate: str | Path | None = None,
    fits: str | int | None = None,
    max_batch: str | int | None = None,
    world_size: int | None = None,
    shard: str = "ddp",
    measure: bool = False,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    depth: int = 1,
    call: str | None = None,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Report:
    """Predict the peak memory of `model` on a CUDA device.

    model, inputs: as `inspector.tracing` takes them; a first dimension of 1 becomes `batch`. A finished
        Trace is simulated as it was recorded.
    phase: "forward" (inference) or "train". `optimizer`: of sgd (default), momentum, adam, adamw,
        adam8bit, adamw8bit.
    amp: autocast to bfloat16. dtype: of weights and inputs. `master_weights`: the optimizer works on
        float32 copies of half-precision weights.
    checkpoint_activations: globs of modules that are computed again in the backward.
    attention: "fused", as a GPU runs it, or "math". gpu: a device of inspector/core/devices.py, whose
        kernels and workspaces are simulated. calibrate: a file of `benchmarks/gpu.py 2`, which narrows the
        range of cuDNN's workspaces for its card and versions. fits, max_batch: bytes, or "24GiB": whether the
        step fits, the largest batch that does.
    world_size, shard: adds the peak of each of N processes under "ddp" or "fsdp", simulated as
        `inspector.scale` does.
    call: the method to run in place of the forward.
    measure: also run it on this machine's device, and compare.

    Raises InspectError for what is wrong; a limit that is exceeded makes the verdict "fail".
    """
    limit = parse_size(fits) if fits is not None else None
    room = parse_size(max_batch) if max_batch is not None else None
    calibration = Calibration.read(calibrate) if calibrate is not None else None
    major = named(gpu).major if gpu is not None else None
    idle = ""
    if calibration is not None:
        calibration.check(gpu)
        major, idle = calibration.major, calibration.elsewhere()
    rules = Rules(major, calibration=None if idle else calibration)
    workspaces = Workspaces.expected(major)
    _check_processes(world_size, shard)
    note = f"{calibrate} does not apply: {idle}" if idle else ""
    ask = partial(sections.Asked, depth=depth, limit=limit, world_size=world_size, shard=shard, note=note)
    if world_size is not None:
        _check_sharing(isinstance(model, Trace), master_weights)
    if isinstance(model, Trace):
        options = (inputs, batch, dtype, max_batch, model_args, amp, measure, checkpoint_activations, call)
        _refuse_options(phase, attention, options)
        _check_optimizer(optimizer, model.phase)
        plan = Plan.of(
            model, optimizer or "sgd", master_weights=master_weights, workspaces=workspaces, rules=rules
        )
        return sections.report(ask(model, plan, simulate(model, plan)))
    _check_optimizer(optimizer, phase)
    kernels = Kernels("cuda", attention, "bfloat16" if amp else None, major)
    question = Question.of(
        as_recipe(model, model_args, call), inputs, phase, seed, kernels, dtype, checkpoint_activations,
        optimizer or "sgd", master_weights, workspaces, rules,
    )  # fmt: skip
    asked = _asked(question, ask, batch, room, measure, tell)
    if world_size is not None:
        from inspector.scaling.processes import fullest

        rank = fullest(
            model, world_size, shard, inputs, batch=asked.batch, phase=phase, optimizer=optimizer, amp=amp,
            dtype=dtype, attention=attention, gpu=gpu, checkpoints=checkpoint_activations,
            model_args=model_args, call=call, seed=seed,
        )  # fmt: skip
        asked = replace(asked, rank=rank)
    return sections.report(asked)


def _asked(
    question: Question,
    ask: Callable[..., sections.Asked],
    batch: int | None,
    room: int | None,
    measure: bool,
    tell: Callable[[str, float], None],
) -> sections.Asked:
    """The step at `batch`, or at the largest batch that needs no more than `room` bytes, simulated."""
    tried: list[dict[str, Any]] = []
    if room is not None:
        if batch is not None:
            raise InspectError(
                "`max_batch=` searches for the batch that `batch=` fixes", "leave out one of them"
            )

        batch, tried = _search(question, room, tell)
        if batch == 0:
            ask, batch = partial(ask, limit=room), 1
    try:
        trace = question.trace(batch)
    except ForwardError as error:
        if batch is not None or not question.default or not needs_two(error):
            raise
        batch = 2
        trace = replace(question.trace(batch), notes=(BATCH_OF_TWO,))
    plan = question.plan(trace)
    asked = ask(trace, plan, simulate(trace, plan), question.setting, room=room, batch=batch, tried=tried)
    if measure:
        from inspector.footprint.measured import measured

        asked = replace(asked, measured=measured(question, batch))
    return asked


def _search(
    question: Question, room: int, tell: Callable[[str, float], None]
) -> tuple[int, list[dict[str, Any]]]:
    """The largest batch that fits, and all that were tried: also for the largest that fits whatever
    workspaces its libraries take."""
    needs: dict[int, tuple[int, int]] = {}

    def needed(batch: int, most: bool) -> int:
        if batch not in needs:
            tell(f"batch {batch}", min(len(needs) / _TRIALS, 0.95))
            needs[batch] = question.needed(batch)
        return needs[batch][most]

    batch = largest_batch(lambda batch: needed(batch, False), room, [])
    if batch > 1:
        largest_batch(
            lambda batch: needed(batch, True), room, [], {b: most for b, (_, most) in needs.items()}
        )
    return batch, [
        {"batch": batch, "needed": need, "at_most": most, "fits": need <= room, "safe": most <= room}
        for batch, (need, most) in sorted(needs.items())
    ]


def _check_processes(world_size: int | None, shard: str) -> None:
    if world_size is not None and (world_size < 1 or shard not in SHARDS):
        raise InspectError(
            f"cannot simulate {world_size} processes under {shard!r}",
            f"`world_size=` is 1 or more, `shard=` one of: {', '.join(SHARDS)}; more has `inspector.scale`",
        )


def _check_sharing(traced: bool, master_weights: bool) -> None:
    """What runs on several processes is run for them, with torch's own optimizers."""
    if traced:
        raise InspectError("a finished trace is of one process", "pass the model to run it on `world_size=`")
    if master_weights:
        raise InspectError(
            "torch's own sharding keeps no master weights", "leave `master_weights=` out, or `world_size=`"
        )


def _refuse_options(phase: str, attention: str, options: Sequence[Any]) -> None:
    """A trace has already run: how it runs can no longer be chosen."""
    if phase != "forward" or attention != "fused" or any(o not in (None, False, ()) for o in options):
        raise InspectError(
            "a finished trace is simulated as it was recorded", "pass the model to run it in another way"
        )


def _check_optimizer(optimizer: str | None, phase: str) -> None:
    if optimizer is None:
        return
    if optimizer not in OPTIMIZERS:
        hint = nearest(optimizer, OPTIMIZERS, f"there are: {', '.join(OPTIMIZERS)}")
        raise InspectError(f"no optimizer is called {optimizer!r}", hint)
    if phase != "train":
        raise InspectError("an optimizer runs in training only", 'add `phase="train"`')
