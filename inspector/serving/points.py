"""One batch of sequences on one device: what it needs, and how fast it can be at best."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from inspector.core.devices import Device
from inspector.footprint import Plan, simulate
from inspector.footprint.cublas import Workspaces
from inspector.models import Recipe
from inspector.profiling.roofline import roof
from inspector.profiling.run import trace
from inspector.profiling.views.bounds import whole
from inspector.profiling.views.serving import held_in_place, in_place
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import Setting
from inspector.tracing.record import Trace


@dataclass(frozen=True)
class Service:
    """A model on a device, with a prompt of `context` tokens for each sequence. `room`: bytes that it may
    take there, None where nobody knows them."""

    recipe: Recipe
    device: Device
    context: int
    room: int | None
    dtype: str | None
    seed: int

    def step(self, phase: str, batch: int) -> Trace:
        setting = Setting(self.dtype, Kernels("cuda", "fused", None, self.device.major))
        return trace(
            self.recipe, phase=phase, context=self.context, batch=batch, seed=self.seed, setting=setting
        )

    def seconds(self, counted: Trace) -> dict[str, float]:
        """The sum of the operators' lower bounds, and the share of it that memory bounds."""
        return whole(in_place(counted), roof(self.device))

    def needed(self, counted: Trace) -> int:
        """Bytes that the device must have for the step."""
        plan = Plan.of(counted, workspaces=Workspaces.expected(self.device.major))
        return simulate(held_in_place(counted), plan).needed

    @cached_property
    def prompt(self) -> Trace:
        """The prefill of one sequence."""
        return self.step("prefill", 1)

    def point(self, batch: int, limit: int | None) -> dict[str, Any]:
        """The row of a batch; `limit` is the longest context that the model is made for."""
        counted = self.step("decode", batch)
        served, bound = counted.served, self.seconds(counted)
        assert served is not None
        weights = sum(entry.nbytes for entry in counted.state)
        each = served.cache_bytes // batch
        needed = max(self.needed(counted), self.needed(self.prompt) + (batch - 1) * each)
        free = None if self.room is None else self.room - needed
        growth = batch * served.cache_bytes_per_token
        rate = batch / bound["seconds"]
        return {
            "batch": batch,
            "fits": None if free is None else free >= 0,
            "needed": needed,
            "weights": weights,
            "cache": served.cache_bytes,
            "working": needed - weights - served.cache_bytes,
            "tokens_per_second": rate,
            "tokens_per_second_each": rate / batch,
            "bound": "memory" if bound["memory_bound"] >= 0.5 else "compute",
            "longest_context": _longest(self.context, free, growth, limit),
        }


def _longest(context: int, free: int | None, growth: int, limit: int | None) -> int | None:
    """The context at which the room is used up. A cache that does not grow, or grows less below its window,
    makes it the model's own limit, or nothing where it does not fit."""
    if free is None:
        return None
    if not growth:
        return limit if free >= 0 else None
    longest = context + free // growth
    if longest < 1:
        return None
    return longest if limit is None else min(longest, limit)
