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
from inspector.profiling.weights import Scheme, in_fewer_bits
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
    weights: Scheme | None = None

    def step(self, phase: str, batch: int, context: int | None = None) -> Trace:
        setting = Setting(self.dtype, Kernels("cuda", "fused", None, self.device.major))
        context = context or self.context
        counted = trace(
            self.recipe, phase=phase, context=context, batch=batch, seed=self.seed, setting=setting
        )
        return counted if self.weights is None else in_fewer_bits(counted, self.weights)

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

    @cached_property
    def prompt_line(self) -> tuple[int, float]:
        """Bytes of the prefill of one sequence, and those that one more token of its prompt adds: on a line
        through half the context."""
        whole, half = self.needed(self.prompt), max(1, self.context // 2)
        if half == self.context:
            return whole, 0.0
        shorter = self.needed(self.step("prefill", 1, half))
        return whole, (whole - shorter) / (self.context - half)

    def point(self, batch: int, limit: int | None) -> dict[str, Any]:
        """The row of a batch; `limit` is the longest context that the model is made for."""
        counted = self.step("decode", batch)
        served, bound = counted.served, self.seconds(counted)
        assert served is not None
        weights = sum(entry.nbytes for entry in counted.state)
        each = served.cache_bytes // batch
        first, slope = self.prompt_line
        token = served.cache_bytes_per_token
        lines = [
            (self.needed(counted), float(batch * token)),
            (first + (batch - 1) * each, slope + (batch - 1) * token),
        ]
        needed = max(nbytes for nbytes, _ in lines)
        rate = batch / bound["seconds"]
        return {
            "batch": batch,
            "fits": None if self.room is None else needed <= self.room,
            "needed": needed,
            "weights": weights,
            "cache": served.cache_bytes,
            "working": needed - weights - served.cache_bytes,
            "tokens_per_second": rate,
            "tokens_per_second_each": rate / batch,
            "bound": "memory" if bound["memory_bound"] >= 0.5 else "compute",
            "longest_context": _longest(self.context, self.room, lines, limit),
        }


def _longest(context: int, room: int | None, lines: list[tuple[int, float]], limit: int | None) -> int | None:
    """The context at which the first of the lines (bytes here, bytes that one more token adds) uses the room
    up, at most `limit`. None where nothing fits, or nobody can know: below its window a cache is no line."""
    if room is None:
        return None
    reached = [context + (room - nbytes) / growth for nbytes, growth in lines if growth > 0]
    if any(nbytes > room for nbytes, growth in lines if growth <= 0) or any(end < 1 for end in reached):
        return None
    longest = int(min(reached)) if reached else limit
    return longest if limit is None or longest is None else min(longest, limit)
