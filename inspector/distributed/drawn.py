"""The gradients of steps in the midst of the training, as the optimizer gets them, against one process.

Before such a step every rank hands over its batches and random state; rank 0 computes what the step must
give, in the training's own precision, on copies. The training itself is only looked at.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import first_line
from inspector.distributed.checkpoint import random_states, restore_random_states
from inspector.distributed.digest import sums, whole
from inspector.distributed.gradients import Gradients, backward, distance
from inspector.distributed.group import gathered
from inspector.distributed.loop import Trainer
from inspector.distributed.parts import Batch
from inspector.models.replica import replica

DRAWN = 2
"""Steps that are drawn; the last one is looked at in any case."""


class Drawn:
    """Looks at some steps of a training of `steps`; `seen` says what it saw of each."""

    def __init__(self, steps: int, first: int, seed: int) -> None:
        middle = range(first + 2, steps)
        self.steps = {*random.Random(seed).sample(middle, min(DRAWN, len(middle))), steps}
        self.seen: list[dict[str, Any]] = []

    @contextmanager
    def __call__(self, trainer: Trainer, batches: list[Batch]) -> Iterator[None]:
        """Around one step of the training."""
        step = trainer.step + 1
        if step not in self.steps or any(isinstance(m, nn.SyncBatchNorm) for m in trainer.model.modules()):
            yield
            return
        trainer.refresh()
        expected, told = _expected(trainer, batches)
        taken: list[Gradients] = []
        names = {id(p): name for name, p in trainer.model.named_parameters()}

        def look(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            taken.append({names.get(id(p), "?"): whole(p.grad).detach().clone() for p in held})

        hook = trainer.optimizer.register_step_pre_hook(look)
        scale = trainer.scaler.get_scale()
        try:
            yield
        finally:
            hook.remove()
        same = gathered([sums(g.values()).tolist() for g in taken])
        self.seen.append(
            {
                "step": step,
                "alike": all(digest == same[0] for digest in same),
                "taken": len(taken),
                "overflowed": trainer.scaler.get_scale() < scale,
                **told,
                **(_compared(taken[0], expected) if taken and expected else {}),
            }
        )


def _expected(trainer: Trainer, batches: list[Batch]) -> tuple[Gradients, dict[str, Any]]:
    """On rank 0: the gradients of the step to come, and `noise`, how far two computations of one shard are
    apart, or `reason`, why there are none. The other ranks give ({}, {})."""
    everyone, states = gathered(batches), gathered(random_states())
    buffers = gathered(dict(trainer.model.named_buffers()) if trainer.sharded else {})
    if trainer.place.rank:
        return {}, {}
    kept, total, noise = random_states(), Gradients(), None
    try:
        again = _shard(trainer, everyone[0], states[0], buffers[0])
        for number, one in enumerate(zip(everyone, states, buffers)):
            shard = _shard(trainer, *one)
            if number == 0:
                noise = distance(again, shard)
            for name, value in shard.items():
                total[name] = total.get(name, 0.0) + value / len(everyone)
    except Exception as error:  # no memory for a copy, or a model that cannot run a batch twice
        return {}, {"reason": first_line(error)}
    finally:
        restore_random_states(kept)
    return total, {"noise": noise}


def _shard(
    trainer: Trainer, batches: list[Batch], state: dict[str, Any], buffers: dict[str, Tensor]
) -> Gradients:
    """The gradients of one rank's batches, with that rank's random numbers, and with its buffers where it has
    its own."""
    model, scale = replica(trainer.plain), trainer.scaler.get_scale()
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in model.named_buffers() if buffers else ():
            buffer.copy_(buffers[name])
    restore_random_states(state)
    for batch in batches:
        backward(trainer, model, batch, len(batches), None)
    return {n: p.grad.double() / scale for n, p in model.named_parameters() if p.grad is not None}


def _compared(taken: Gradients, expected: Gradients) -> dict[str, Any]:
    """How far the gradients are from a multiple of what they should be, and from which: clipping scales
    them all alike."""
    flat = {name: value.double() for name, value in taken.items()}
    inner = sum(_dot(flat[name], expected[name]) for name in expected if name in flat)
    norm = sum(_dot(value, value) for value in expected.values())
    scale = inner / norm if norm else math.nan
    return {
        "scale": scale if math.isfinite(scale) else None,
        "distance": distance(flat, {name: value * scale for name, value in expected.items()}),
    }


def _dot(one: Tensor, other: Tensor) -> float:
    return float((one * other.to(one.device)).sum())
