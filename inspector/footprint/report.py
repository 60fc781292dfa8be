"""Predict the peak memory of inference or a training step on a CUDA device, without one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from inspector.core.devices import named
from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.core.naming import nearest, select
from inspector.footprint import OPTIMIZERS, Plan, sections, simulate
from inspector.footprint.shard import KINDS
from inspector.footprint.step import CUBLAS_WORKSPACE, CUBLAS_WORKSPACE_HOPPER
from inspector.models import Model, Recipe, as_recipe
from inspector.models.inputs import Inputs, as_inputs, materialise
from inspector.models.small import with_batch
from inspector.models.values import batch_size
from inspector.profiling.run import BATCH_OF_TWO, needs_two, trace
from inspector.reporting.report import Report
from inspector.tracing.capture import ForwardError
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import Setting
from inspector.tracing.record import Trace

DTYPES = ("float32", "bfloat16", "float16", "float64")
LARGEST_BATCH = 2**20
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", re.IGNORECASE)


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
    fits: str | int | None = None,
    max_batch: str | int | None = None,
    world_size: int | None = None,
    shard: str = "ddp",
    measure: bool = False,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    depth: int = 1,
) -> Report:
    """Predict the peak memory of `model` on a CUDA device.

    model, inputs: as `inspector.tracing` takes them; a first dimension of 1 becomes `batch`. A finished
        Trace is simulated as it was recorded.
    phase: "forward" (inference) or "train". `optimizer`: of sgd (default), momentum, adam, adamw,
        adam8bit, adamw8bit.
    amp: autocast to bfloat16. dtype: of weights and inputs. `master_weights`: the optimizer works on
        float32 copies of half-precision weights.
    checkpoint_activations: globs of modules that are computed again in the backward.
    attention: "fused", as a GPU runs it, or "math". gpu: a device of inspector/devices.py (its cuBLAS
        workspace). fits, max_batch: bytes, or "24GiB": whether the step fits, the largest batch that does.
    world_size, shard: adds an estimate for N processes under "ddp" or "fsdp".
    measure: also run it on the device at hand, and compare.

    Raises InspectError for what is wrong; a limit that is exceeded makes the verdict "fail".
    """
    limit = parse_size(fits) if fits is not None else None
    room = parse_size(max_batch) if max_batch is not None else None
    if world_size is not None and (world_size < 1 or shard not in KINDS):
        raise InspectError(
            f"no estimate for {world_size} processes under {shard!r}",
            f"`world_size=` is 1 or more, `shard=` one of: {', '.join(KINDS)}",
        )
    workspace = _workspace(gpu)
    if isinstance(model, Trace):
        open_ = (inputs, batch, dtype, max_batch, model_args, amp, measure, checkpoint_activations)
        if (
            phase != "forward"
            or attention != "fused"
            or any(value not in (None, False, ()) for value in open_)
        ):
            raise InspectError(
                "a finished trace is simulated as it was recorded", "name the model to run it in another way"
            )
        _check_optimizer(optimizer, model.phase)
        plan = Plan.of(model, optimizer or "sgd", master_weights=master_weights, workspace=workspace)
        asked = sections.Asked(model, plan, simulate(model, plan), depth=depth, limit=limit)
        return sections.report(replace(asked, world_size=world_size, shard=shard))
    _check_optimizer(optimizer, phase)
    question = Question.of(
        model, inputs, phase, model_args, seed, Kernels("cuda", attention, "bfloat16" if amp else None),
        dtype, checkpoint_activations, optimizer or "sgd", master_weights, workspace,
    )  # fmt: skip
    tried: list[dict[str, Any]] = []
    if room is not None:
        if batch is not None:
            raise InspectError(
                "`max_batch=` looks for the batch that `batch=` gives", "leave out one of them"
            )
        batch = largest_batch(question.needed, room, tried)
        if batch == 0:
            limit, batch = room, 1
    try:
        found = question.trace(batch)
    except ForwardError as error:
        if batch is not None or not question.default or not needs_two(error):
            raise
        batch = 2
        found = replace(question.trace(batch), notes=(BATCH_OF_TWO,))
    plan = question.plan(found)
    asked = sections.Asked(
        found,
        plan,
        simulate(found, plan),
        question.setting,
        depth,
        limit,
        room,
        batch,
        tried,
        world_size,
        shard,
    )
    if measure:
        from inspector.footprint.measured import measured

        asked = replace(asked, measured=measured(question, batch))
    return sections.report(asked)


@dataclass(frozen=True)
class Question:
    """A model and how it is run; only the batch is open."""

    recipe: Recipe
    given: Inputs
    own: int
    default: bool
    phase: str
    seed: int
    setting: Setting
    optimizer: str
    master_weights: bool
    workspace: int

    @staticmethod
    def of(
        model: Model,
        inputs: Any,
        phase: str,
        model_args: Mapping[str, Any] | None,
        seed: int,
        kernels: Kernels,
        dtype: str | None,
        checkpoints: Sequence[str],
        optimizer: str,
        master_weights: bool,
        workspace: int,
    ) -> Question:
        if dtype is not None and dtype not in DTYPES:
            raise InspectError(f"unknown dtype {dtype!r}", f"use one of: {', '.join(DTYPES)}")
        if checkpoints and phase != "train":
            raise InspectError("only training keeps activations", 'add `phase="train"`')
        recipe = as_recipe(model, model_args)
        if recipe.only_on is not None:
            raise InspectError(
                f"{recipe.name} is quantized: CUDA has no kernels for it", "name the float model"
            )
        built = recipe.build("meta")
        known = as_inputs(inputs) if inputs is not None else recipe.defaults(built, phase)
        if known is None:
            raise InspectError(
                f"{recipe.name} has no default input", 'give one with `inputs="1x3x224x224"` (a batch of 1)'
            )
        paths: list[str] = []
        if checkpoints:
            names = [path for path, _ in built.named_modules() if path]
            paths = _outermost(select(names, checkpoints, "module", "checkpoint_activations"))
        setting = Setting(dtype, kernels, tuple(paths))
        own = batch_size(*materialise(known, built, "meta"))
        default = inputs is None
        return Question(
            recipe, known, own, default, phase, seed, setting, optimizer, master_weights, workspace
        )

    def inputs(self, batch: int | None) -> Inputs:
        """What the model is called with; None: as it was given, or as its source says."""
        if batch is None or batch == self.own:
            return self.given
        if batch < 1:
            raise InspectError(f"a batch of {batch} has no sample", "give `batch=64`")
        if self.own != 1:
            raise InspectError(
                f"the input has {self.own} samples, and `batch=` asks for {batch}",
                "give it with a first dimension of 1, or leave out `batch=`",
            )
        return with_batch(self.given, batch)

    def trace(self, batch: int | None, setting: Setting | None = None) -> Trace:
        return trace(
            self.recipe, self.inputs(batch), phase=self.phase, seed=self.seed, setting=setting or self.setting
        )

    def plan(self, found: Trace) -> Plan:
        return Plan.of(found, self.optimizer, master_weights=self.master_weights, workspace=self.workspace)

    def needed(self, batch: int) -> int:
        """Bytes that a device must have for the step."""
        found = self.trace(batch)
        return sections.needed(simulate(found, self.plan(found)))


def _outermost(paths: Sequence[str]) -> list[str]:
    """Without those inside another: a module is computed again whole."""
    chosen = set(paths)
    return [p for p in paths if not any(p.startswith(f"{other}.") for other in chosen)]


def _check_optimizer(optimizer: str | None, phase: str) -> None:
    if optimizer is None:
        return
    if optimizer not in OPTIMIZERS:
        hint = nearest(optimizer, OPTIMIZERS, f"there are: {', '.join(OPTIMIZERS)}")
        raise InspectError(f"no optimizer is called {optimizer!r}", hint)
    if phase != "train":
        raise InspectError("an optimizer runs in training only", 'add `phase="train"`')


def _workspace(gpu: str | None) -> int:
    if gpu is None:
        return CUBLAS_WORKSPACE
    return CUBLAS_WORKSPACE_HOPPER if named(gpu).name.startswith("H") else CUBLAS_WORKSPACE


def parse_size(text: str | int) -> int:
    """Bytes from a number of them, or 24GiB, 80GB, 512MiB."""
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    match = _SIZE.fullmatch(str(text))
    if match is None or float(match[1]) == 0:
        raise InspectError(f"cannot read the size {text!r}", "write e.g. 24GiB, 80GB or 512MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index((match[2] or " ").upper()))


def largest_batch(needed: Callable[[int], int], room: int, tried: list[dict[str, Any]]) -> int:
    """The largest batch whose step needs no more than `room` bytes, 0 if none does; `tried` is filled.

    Memory is nearly a line in the batch: each guess is where the line through the last two trials meets
    `room`, kept between what fits and what does not, until those are neighbours.
    """
    known: dict[int, int] = {}

    def fits(batch: int) -> bool:
        if batch not in known:
            known[batch] = needed(batch)
            logger.info("batch %d needs %d bytes", batch, known[batch])
            tried.append({"batch": batch, "needed": known[batch], "fits": known[batch] <= room})
        return known[batch] <= room

    if not fits(2):
        try:
            return 1 if fits(1) else 0
        except ForwardError:  # batch norm cannot train on one sample
            return 0
    fitting, failing = 2, LARGEST_BATCH + 1
    guess = 4
    while failing - fitting > 1 and guess <= LARGEST_BATCH:
        if fits(guess):
            fitting = max(fitting, guess)
        else:
            failing = min(failing, guess)
        guess = _next_guess(known, fitting, failing, room)
    return fitting


def _next_guess(known: dict[int, int], fitting: int, failing: int, room: int) -> int:
    """Where the line through the two nearest trials meets `room`, inside the open interval."""
    first, second = sorted(known, key=lambda batch: abs(batch - fitting))[:2]
    if len(known) > 5 and len(known) % 2 and failing <= LARGEST_BATCH:
        return (fitting + failing) // 2  # lines alone may creep
    slope = (known[second] - known[first]) / (second - first)
    guess = int(fitting + (room - known[fitting]) / slope) if slope > 0 else 2 * fitting
    if guess in (fitting, failing) or guess in known:
        guess = fitting + 1 if guess <= fitting else failing - 1
    return min(max(guess, fitting + 1), failing - 1)
