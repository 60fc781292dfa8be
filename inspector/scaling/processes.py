"""One process of N that train a model together, for `inspector.memory`: simulated, not estimated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from inspector.core.errors import InspectError
from inspector.scaling.child import Request
from inspector.scaling.layout import OPTIMIZERS, Layout
from inspector.scaling.run import simulate


def fullest(
    model: Any,
    world_size: int,
    shard: str,
    inputs: Any,
    *,
    batch: int | None,
    phase: str,
    optimizer: str | None,
    amp: bool,
    dtype: str | None,
    attention: str,
    gpu: str | None,
    checkpoints: Sequence[str],
    model_args: Mapping[str, Any] | None,
    call: str | None,
    seed: int,
) -> dict[str, Any]:
    """The summary of the rank that holds most: the first, because FSDP2's shards shrink with the rank, and
    DDP's ranks are alike. Raises InspectError for an optimizer that is not simulated."""
    if phase == "train" and (optimizer or "sgd") not in OPTIMIZERS:
        raise InspectError(
            f"{optimizer} on {world_size} processes is not simulated", f"use one of: {', '.join(OPTIMIZERS)}"
        )
    layout = Layout.of({"dp": world_size}, shard, checkpoints=tuple(checkpoints))
    chosen = (optimizer or "sgd") if phase == "train" else None
    request = Request(
        model, dict(model_args or {}), call, inputs, batch, layout, chosen, amp, dtype, attention, seed, gpu,
        None, None,
    )  # fmt: skip
    return simulate(request, [0], lambda what, share: None)[0]
