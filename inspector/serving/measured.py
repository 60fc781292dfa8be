"""A service as it runs on this machine: the model's own forward, step after step on a growing cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Any

import torch
from torch import nn

from inspector.benchmarking.timing import Clock, clock_of
from inspector.core import devices
from inspector.core.devices import Device
from inspector.core.errors import InspectError, first_line
from inspector.models import Recipe
from inspector.models.build import available_bytes, out_of_memory
from inspector.models.device import gpu_name, real_device
from inspector.models.inputs import materialise
from inspector.models.serving import Serving, Step
from inspector.models.subject import owned
from inspector.profiling import flags, timer
from inspector.tracing.capture.isolate import random_state
from inspector.tracing.capture.setting import Setting

SECONDS = 3.0
"""Time budget of one batch's steps; the least number is made also where they take longer."""
WARM_UP, LEAST, MOST = 2, 3, 50


@dataclass(frozen=True)
class Measured:
    """The median `seconds` of `runs` decode steps of a batch, or why there are none."""

    seconds: float | None
    runs: int = 0
    why: str = ""

    def rate(self, batch: int) -> float | None:
        """Tokens a second of `batch` sequences."""
        return None if self.seconds is None else batch / self.seconds


@dataclass(frozen=True)
class Run:
    """What `machine` measured: the prefill of one sequence, and a decode step of each batch."""

    machine: Machine
    first: Measured
    decodes: dict[int, Measured]


class Machine:
    """The model with random weights on this machine's accelerator, or on its CPU."""

    def __init__(self, recipe: Recipe, context: int, dtype: str | None, seed: int) -> None:
        self.recipe, self.context, self.seed = recipe, context, seed
        self.setting = Setting(dtype)
        self.device = real_device(None)
        self.clock: Clock = clock_of(self.device)

    @property
    def place(self) -> str:
        """Its name."""
        return timer.place(self.device)

    @property
    def listed(self) -> Device | None:
        """What its maker says of it, where we know that."""
        name = gpu_name(self.device)
        return devices.find(name) if name is not None else None

    @cached_property
    def model(self) -> nn.Module:
        """Built once for all batches. Raises InspectError for weights that do not fit into memory."""
        needed = sum(
            tensor.numel() * (self.setting.torch_dtype or tensor.dtype).itemsize
            for tensor in self.recipe.build("meta").parameters()
        )
        available = available_bytes()
        if available is not None and needed > available:
            raise InspectError(
                f"{self.recipe.name} has {needed / 2**30:.1f} GiB of weights, which do not fit into this"
                " machine's memory",
                "leave `measure=` out",
            )
        model = owned(self.recipe, "cpu", self.seed)
        return model.to(self.device, self.setting.torch_dtype).eval()

    def run(self, batches: Sequence[int], tell: Callable[[str, float], None]) -> Run:
        """Measure the prefill of one sequence, and a decode step of each batch."""
        tell("building the model", 0.0)
        first = self.timed("prefill", 1)
        decodes = {}
        for number, batch in enumerate(batches):
            tell(f"measuring {batch} sequences", (number + 1) / (len(batches) + 1))
            decodes[batch] = self.timed("decode", batch)
        return Run(self, first, decodes)

    def timed(self, phase: str, batch: int) -> Measured:
        """Steps of `batch` sequences: the prefill with an empty cache each time, or one new token of each,
        the first of them after the context, the next after one more."""
        serving = Serving.of(phase, self.context, batch)
        assert serving is not None
        try:
            with random_state(), torch.no_grad(), flags.precision("ieee"):
                return self._steps(self._call(serving))
        except Exception as error:
            if out_of_memory(error.__cause__ or error):  # also while the cache is made
                return Measured(None, why="out of memory")
            if isinstance(error, InspectError):
                raise
            raise InspectError(
                f"{self.recipe.name} raised {type(error).__name__} in a {phase}: {first_line(error)}",
                "see `error.__cause__`",
            ) from error

    def _call(self, serving: Serving) -> Callable[[], Any]:
        """What runs one step; a decode's appends to its cache."""
        inputs = Step(self.recipe, serving, self.device, self.seed).recipe.inputs(self.model, None)
        cache = {name: value for name, value in inputs.kwargs.items() if hasattr(value, "layers")}
        others = {name: value for name, value in inputs.kwargs.items() if name not in cache}
        args, kwargs = materialise(replace(inputs, kwargs=others), self.model, self.device, self.seed)
        return lambda: self.model(*args, **kwargs, **cache)  # the cache is ours: not copied

    def _steps(self, call: Callable[[], Any]) -> Measured:
        deadline = time.perf_counter() + SECONDS
        for _ in range(WARM_UP):
            self.clock.once(call)
            if time.perf_counter() > deadline:
                break
        times: list[float] = []
        while len(times) < LEAST or (len(times) < MOST and time.perf_counter() < deadline):
            times.append(self.clock.once(call))
        return Measured(median(times), len(times))
