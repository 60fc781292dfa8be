"""What is asked of a model's memory: how it is run, its traces, and the largest batch that fits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.core.naming import select
from inspector.footprint.cublas import Workspaces
from inspector.footprint.step import Plan, simulate
from inspector.footprint.workspaces import Rules
from inspector.models import Recipe
from inspector.models.inputs import Inputs, as_inputs, materialise
from inspector.models.small import with_batch
from inspector.profiling.run import trace
from inspector.tracing.capture import ForwardError
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import Setting
from inspector.tracing.record import Trace
from inspector.tracing.values import batch_size

DTYPES = ("float32", "bfloat16", "float16", "float64")
LARGEST_BATCH = 2**20
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """A model and how it is run; only the batch is open."""

    recipe: Recipe
    called_with: Inputs
    own: int
    default: bool
    phase: str
    seed: int
    setting: Setting
    optimizer: str
    master_weights: bool
    workspaces: Workspaces
    rules: Rules

    @staticmethod
    def of(
        recipe: Recipe,
        inputs: Any,
        phase: str,
        seed: int,
        kernels: Kernels,
        dtype: str | None,
        checkpoints: Sequence[str],
        optimizer: str,
        master_weights: bool,
        workspaces: Workspaces,
        rules: Rules,
    ) -> Question:
        if dtype is not None and dtype not in DTYPES:
            raise InspectError(f"unknown dtype {dtype!r}", f"use one of: {', '.join(DTYPES)}")
        if checkpoints and phase != "train":
            raise InspectError("only training keeps activations", 'add `phase="train"`')
        if recipe.only_on is not None:
            raise InspectError(
                f"{recipe.name} is quantized: CUDA has no kernels for such a model", "name the float model"
            )
        built = recipe.build("meta")
        called_with = recipe.inputs(built, as_inputs(inputs) if inputs is not None else None, phase)
        paths: list[str] = []
        if checkpoints:
            names = [path for path, _ in built.named_modules() if path]
            paths = _outermost(select(names, checkpoints, "module", "checkpoint_activations"))
        setting = Setting(dtype, kernels, tuple(paths))
        own = batch_size(*materialise(called_with, built, "meta"))
        default = inputs is None
        rules = replace(rules, channels_last=_channels_last(built))
        return Question(
            recipe, called_with, own, default, phase, seed, setting, optimizer, master_weights, workspaces,
            rules,
        )  # fmt: skip

    def inputs(self, batch: int | None) -> Inputs:
        """What the model is called with; None: its own inputs, or the default of its source."""
        if batch is None or batch == self.own:
            return self.called_with
        if batch < 1:
            raise InspectError(f"a batch of {batch} holds no sample", "pass `batch=64`")
        if self.own != 1:
            raise InspectError(
                f"the input has {self.own} samples, but `batch=` asks for {batch}",
                "give the input a first dimension of 1, or leave out `batch=`",
            )
        return with_batch(self.called_with, batch)

    def trace(self, batch: int | None, setting: Setting | None = None) -> Trace:
        return trace(
            self.recipe, self.inputs(batch), phase=self.phase, seed=self.seed, setting=setting or self.setting
        )

    def plan(self, trace: Trace) -> Plan:
        return Plan.of(
            trace, self.optimizer, master_weights=self.master_weights, workspaces=self.workspaces,
            rules=self.rules,
        )  # fmt: skip

    def needed(self, batch: int) -> tuple[int, int]:
        """Bytes that a device must have for the step, without and with the largest workspaces."""
        step = self.trace(batch)
        memory = simulate(step, self.plan(step))
        return memory.needed, memory.needed + memory.workspaces


def _channels_last(model: torch.nn.Module) -> bool:
    """Whether filters are kept in NHWC, which is enough for torch to run their convolutions so
    (cudnn_conv_suggest_memory_format in ATen/native/ConvUtils.h)."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    filters = [
        weight
        for weight in model.parameters()
        if weight.dim() in formats and weight.layout is torch.strided and not weight.is_contiguous()
    ]
    return any(weight.is_contiguous(memory_format=formats[weight.dim()]) for weight in filters)


def _outermost(paths: Sequence[str]) -> list[str]:
    """Without those inside another: a module is computed again whole."""
    chosen = set(paths)
    return [p for p in paths if not any(p.startswith(f"{other}.") for other in chosen)]


def parse_size(text: str | int) -> int:
    """Bytes from a number of them, or 24GiB, 80GB, 512MiB."""
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    match = _SIZE.fullmatch(str(text))
    if match is None or float(match[1]) == 0:
        raise InspectError(f"cannot read the size {text!r}", "write e.g. 24GiB, 80GB or 512MiB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** " KMGT".index((match[2] or " ").upper()))


def largest_batch(
    needed: Callable[[int], int],
    room: int,
    tried: list[dict[str, Any]],
    known: Mapping[int, int] | None = None,
) -> int:
    """The largest batch whose step needs no more than `room` bytes, 0 if none does; `tried` is filled.
    `known`: what some batches need.

    Memory is nearly a line in the batch: each guess is where the line through the last two trials meets
    `room`, kept between what fits and what does not, until those are neighbours.
    """
    needs: dict[int, int] = dict(known or {})

    def fits(batch: int) -> bool:
        if batch not in needs:
            needs[batch] = needed(batch)
            logger.info("batch %d needs %d bytes", batch, needs[batch])
            tried.append({"batch": batch, "needed": needs[batch], "fits": needs[batch] <= room})
        return needs[batch] <= room

    if not fits(2):
        try:
            return 1 if fits(1) else 0
        except ForwardError:  # batch norm cannot train on one sample
            return 0
    failing = min((batch for batch, need in needs.items() if need > room), default=LARGEST_BATCH + 1)
    fitting = max(batch for batch, need in needs.items() if need <= room and batch < failing)
    guess = 4 if len(needs) < 3 else _next_guess(needs, fitting, failing, room)
    while failing - fitting > 1 and guess <= LARGEST_BATCH:
        if fits(guess):
            fitting = max(fitting, guess)
        else:
            failing = min(failing, guess)
        guess = _next_guess(needs, fitting, failing, room)
    return fitting


def _next_guess(needs: dict[int, int], fitting: int, failing: int, room: int) -> int:
    """Where the line through the two nearest trials meets `room`, inside the open interval."""
    first, second = sorted(needs, key=lambda batch: abs(batch - fitting))[:2]
    if len(needs) > 5 and len(needs) % 2 and failing <= LARGEST_BATCH:
        return (fitting + failing) // 2  # secants alone may converge slowly from one side
    slope = (needs[second] - needs[first]) / (second - first)
    guess = int(fitting + (room - needs[fitting]) / slope) if slope > 0 else 2 * fitting
    if guess in (fitting, failing) or guess in needs:
        guess = fitting + 1 if guess <= fitting else failing - 1
    return min(max(guess, fitting + 1), failing - 1)
