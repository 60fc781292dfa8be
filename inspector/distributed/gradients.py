"""The gradients of the first step, under DDP and in one process.

Whatever runs a model here runs a copy of it, so that the training itself is not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from inspector.distributed.digest import whole
from inspector.distributed.group import gathered
from inspector.distributed.loop import Trainer
from inspector.distributed.parts import Batch
from inspector.models.determinate import cast, quiet, random
from inspector.models.replica import replica

Gradients = dict[str, Tensor]


def first_batches(trainer: Trainer, count: int) -> list[Batch]:
    """The first batches of the first epoch. Training loses none of them: the loader starts again."""
    trainer.new_epoch(0)
    return list(islice(iter(trainer.data.train), count))


def compared(trainer: Trainer) -> dict[str, Any]:
    """The gradients of the first step and of an accumulated one, against one process (see `_reference`).

    Distances are ||g - g64|| / ||g64|| over all parameters; `alone` is that of one process in the
    training's own precision, and `same` that from it. On rank 0; the others give {}.
    """
    many = trainer.node.SOLVER.ACCUMULATE
    mine = first_batches(trainer, max(2, many))
    if min(gathered(len(mine))) < many:
        return {"skipped": f"an epoch has fewer than {many} batches"}
    if any(gathered(_draws(trainer, mine[0]))):
        return {"skipped": "the model draws random numbers besides its dropout layers"}
    everyone = gathered(mine)
    with _halved(trainer, mine[:many]):
        return _compared(trainer, mine, everyone)


@contextmanager
def _halved(trainer: Trainer, batches: list[Batch]) -> Iterator[None]:
    """Halve the loss scale until the gradients are finite, as GradScaler does at each skipped step; the
    training starts with its own. The sums of all ranks decide, so that all decide alike."""
    scaler = trainer.scaler
    kept = scaler.state_dict()
    try:
        while scaler.is_enabled() and scaler.get_scale() > 1:
            if all(bool(gradient.isfinite().all()) for gradient in _parallel(trainer, batches)[0].values()):
                break
            scaler.update(scaler.get_scale() / 2)
        yield
    finally:
        scaler.load_state_dict(kept)


def _compared(trainer: Trainer, mine: list[Batch], everyone: list[list[Batch]]) -> dict[str, Any]:
    many = trainer.node.SOLVER.ACCUMULATE
    first, reduced, expected = _parallel(trainer, mine[:many])
    longer = len(mine) > many
    later, reduced, expected = _parallel(trainer, mine) if longer else (first, reduced, expected)
    if trainer.place.rank:
        return {}
    steps = [rank[:many] for rank in everyone]
    exact = _reference(trainer, steps, torch.float64)
    alone = _reference(trainer, steps, None)
    return {
        "distance": distance(first, exact),
        "alone": distance(alone, exact),
        "same": distance(first, alone),
        "worst": _worst(first, exact),
        "micro_batches": len(mine),
        "accumulated": distance(later, _reference(trainer, everyone, None) if longer else alone),
        "reduced": reduced,
        "expected": expected,
        "synchronised_norms": any(isinstance(m, nn.SyncBatchNorm) for m in trainer.model.modules()),
    }


def unused(trainer: Trainer) -> list[str]:
    """Trainable parameters to which a backward of the unwrapped model sends no gradient."""
    batches = first_batches(trainer, 1)
    if not batches:
        return []
    model = alone(trainer, None)
    backward(trainer, model, batches[0], 1, None)
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def twin(trainer: Trainer, dtype: torch.dtype | None) -> nn.Module:
    """A copy of the model, converted to `dtype` unless None, with dropout off."""
    model = replica(trainer.plain)
    model = model.to(dtype) if dtype is not None else model
    quiet(model)
    return model


def alone(trainer: Trainer, dtype: torch.dtype | None) -> nn.Module:
    """A twin that one rank can run while the others do not: SyncBatchNorm would wait for them."""
    return _unsynchronised(twin(trainer, dtype))


def _draws(trainer: Trainer, batch: Batch) -> bool:
    model = alone(trainer, None)
    return random(_Called(trainer, model), (batch[0],), {}, "train")


class _Called(nn.Module):
    """The trainer's way to call the model, as a module."""

    def __init__(self, trainer: Trainer, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.how = trainer.call

    def train(self, mode: bool = True) -> Any:  # noqa: ARG002
        """The mode of each part is already as the training has it."""
        return self

    def forward(self, samples: Any) -> Any:
        return self.how(self.inner, samples)


def _parallel(trainer: Trainer, batches: list[Batch]) -> tuple[Gradients, int, int]:
    """Gradients of one step under DDP or FSDP2, how many elements were reduced, and how many should be. FSDP2
    with one rank reduces nothing, and 0 of 0 says so."""
    model = twin(trainer, None)
    wrapped = trainer.wrap(model)
    if not isinstance(wrapped, DistributedDataParallel):
        return _sharded(trainer, model, wrapped, batches)
    counted = [0]

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch compares annotations as objects
        counted[0] += bucket.buffer().numel()
        return default_hooks.allreduce_hook(state, bucket)

    wrapped.register_comm_hook(None, hook)
    trainer.forward_backward(wrapped, batches)
    expected = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return _unscaled(model, trainer.scaler.get_scale()), counted[0], expected


def _sharded(
    trainer: Trainer, model: nn.Module, wrapped: Any, batches: list[Batch]
) -> tuple[Gradients, int, int]:
    from inspector.distributed import fsdp

    with fsdp.Reduced() as seen:
        trainer.forward_backward(wrapped, batches)
    expected = fsdp.due(model) if trainer.place.world > 1 else seen.elements
    return _unscaled(model, trainer.scaler.get_scale()), seen.elements, expected


def _reference(trainer: Trainer, everyone: list[list[Batch]], dtype: torch.dtype | None) -> Gradients:
    """The gradients that all ranks should have, computed in this one process: with plain batch norms the
    mean over the ranks' shards, each run by itself; with SyncBatchNorm those of the big batch."""
    model = alone(trainer, dtype)
    model.zero_grad(set_to_none=True)
    many = len(everyone[0])
    if any(isinstance(module, nn.SyncBatchNorm) for module in trainer.model.modules()):
        for number in range(many):
            samples = torch.cat([rank[number][0] for rank in everyone])
            labels = torch.cat([rank[number][1] for rank in everyone])
            backward(trainer, model, (samples, labels), many, dtype)
    else:
        start = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for rank in everyone:
            with torch.no_grad():  # all ranks begin with the same buffers, which a forward may use and change
                for name, buffer in model.named_buffers():
                    if name in start:
                        buffer.copy_(start[name])
            for batch in rank:
                backward(trainer, model, batch, many * len(everyone), dtype)
    return _unscaled(model, trainer.scaler.get_scale() if dtype is None else 1.0)


def _unscaled(model: nn.Module, scale: float) -> Gradients:
    return {n: whole(p.grad).double() / scale for n, p in model.named_parameters() if p.grad is not None}


def backward(
    trainer: Trainer, model: nn.Module, batch: Batch, divisor: int, dtype: torch.dtype | None
) -> None:
    """Add the gradients of one batch's loss over `divisor`; a `dtype` runs in that, without autocast."""
    samples, labels = cast(batch, dtype)
    if dtype is not None:
        loss = _wide(trainer, dtype, lambda: trainer.loss(trainer.call(model, samples), labels))
        (loss / divisor).backward()
        return
    with trainer.autocast():
        loss = trainer.loss(trainer.call(model, samples), labels) / divisor
    (loss * trainer.scaler.get_scale()).backward()


def _wide(trainer: Trainer, dtype: torch.dtype, run: Callable[[], Tensor]) -> Tensor:
    """`run` with the model's further inputs in `dtype`."""
    before, trainer.rest = trainer.rest, cast(trainer.rest, dtype)
    try:
        return run()
    finally:
        trainer.rest = before


def _unsynchronised(model: nn.Module) -> nn.Module:
    """Plain batch norms in place of SyncBatchNorm."""
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.SyncBatchNorm):
            plain = _Plain(
                module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
            )
            plain.__dict__.update(module.__dict__)
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, plain)
    return model


class _Plain(nn.BatchNorm1d):
    def _check_input_dim(self, input: Tensor) -> None:
        """Any shape that SyncBatchNorm takes."""


def distance(gradients: Gradients, truth: Gradients) -> float | None:
    """||g - truth|| / ||truth|| over all parameters; a missing gradient counts as zero."""
    error = sum(float((gradients.get(n, 0 * t).to(t.device) - t).square().sum()) for n, t in truth.items())
    norm = sum(float(t.square().sum()) for t in truth.values())
    return (error / norm) ** 0.5 if norm and error == error else None


def _worst(gradients: Gradients, truth: Gradients) -> list[tuple[str, float]]:
    """The five parameters whose gradients are furthest off."""
    pairs = {name: ({name: gradients[name]}, {name: t}) for name, t in truth.items() if name in gradients}
    distances = {name: distance(*pair) for name, pair in pairs.items()}
    rows = [(name, distance) for name, distance in distances.items() if distance is not None]
    return sorted(rows, key=lambda row: -row[1])[:5]
