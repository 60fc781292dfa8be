"""What is measured before, beside and after the training: plain values of one rank, judged in checks.py.

Whatever runs a model here runs a copy of it, so that the training itself is not disturbed.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from inspector.distributed.digest import names, sums
from inspector.distributed.loop import Batch, Trainer
from inspector.models.determinate import cast, quiet, random
from inspector.models.replica import replica

FIXED_STEPS = 10
"""Steps on one batch, in which the loss must fall."""
PICTURES = 4
"""Samples that are augmented on every rank."""
Gradients = dict[str, Tensor]


def gathered(value: Any) -> list[Any]:
    """The values of all ranks, on every rank."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, value)
    return found


def first_batches(trainer: Trainer, count: int) -> list[Batch]:
    """The first batches of the first epoch. The loader is used up for nobody: it starts anew."""
    trainer.new_epoch(0)
    return list(islice(iter(trainer.data.train), count))


def before(trainer: Trainer) -> dict[str, Any]:
    """Of the set-up: weights, buffers, the optimizer's groups, the length of the loader, random draws."""
    trainer.new_epoch(0)
    samples = [trainer.data.dataset[index][0] for index in range(min(PICTURES, len(trainer.data.dataset)))]
    model = trainer.model
    return {
        "names": names(model),
        "data": f"{trainer.data.name}: {len(trainer.data.dataset)} samples to train on",
        "initial": trainer.initial.tolist(),
        "wrapped": sums(model.parameters()).tolist(),
        "buffer_names": [name for name, _ in model.named_buffers()],
        "buffers": sums(model.buffers()).tolist(),
        "at_wrap": list(trainer.at_wrap),
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "steps_per_epoch": len(trainer.data.train),
        "augmented": sums(s if isinstance(s, Tensor) else torch.as_tensor(s) for s in samples).tolist(),
        "augments": bool(trainer.node.DATA.AUGMENT) and trainer.data.augments,
        "draws": sums([torch.get_rng_state()]).tolist(),
        "groups": _groups(trainer.optimizer, model),
    }


def _groups(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[dict[str, Any]]:
    known = {id(p): name for name, p in model.named_parameters()}
    return [
        {
            "lr": group["lr"],
            "weight_decay": group.get("weight_decay"),
            "names": [known.get(id(p), "(not of this model)") for p in group["params"]],
        }
        for group in optimizer.param_groups
    ]


def gradients(trainer: Trainer) -> dict[str, Any]:
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
    first, reduced, expected = _parallel(trainer, mine[:many])
    longer = len(mine) > many
    later, reduced, expected = _parallel(trainer, mine) if longer else (first, reduced, expected)
    if trainer.place.rank:
        return {}
    steps = [rank[:many] for rank in everyone]
    exact = _reference(trainer, steps, torch.float64)
    alone = _reference(trainer, steps, None)
    return {
        "distance": _distance(first, exact),
        "alone": _distance(alone, exact),
        "same": _distance(first, alone),
        "worst": _worst(first, exact),
        "micro_batches": len(mine),
        "accumulated": _distance(later, _reference(trainer, everyone, None) if longer else alone),
        "reduced": reduced,
        "expected": expected,
        "synchronised_norms": any(isinstance(m, nn.SyncBatchNorm) for m in trainer.model.modules()),
    }


def unused(trainer: Trainer) -> list[str]:
    """Trainable parameters to which a backward of the unwrapped model sends no gradient."""
    batches = first_batches(trainer, 1)
    if not batches:
        return []
    model = _twin(trainer, None)
    _backward(trainer, model, batches[0], 1, None)
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def _twin(trainer: Trainer, dtype: torch.dtype | None) -> nn.Module:
    model = replica(trainer.model)
    model = model.to(dtype) if dtype is not None else model
    quiet(model)
    return model


def _draws(trainer: Trainer, batch: Batch) -> bool:
    model = _twin(trainer, None)
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
    """Gradients of one step under DDP, how many elements were reduced, and how many should be."""
    model = _twin(trainer, None)
    wrapped = trainer.wrap(model)
    counted = [0]

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch compares annotations as objects
        counted[0] += bucket.buffer().numel()
        return default_hooks.allreduce_hook(state, bucket)

    wrapped.register_comm_hook(None, hook)
    trainer.forward_backward(wrapped, batches)
    return (
        _unscaled(model, _scale(trainer)),
        counted[0],
        sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def _reference(trainer: Trainer, everyone: list[list[Batch]], dtype: torch.dtype | None) -> Gradients:
    """The gradients that all ranks should have, computed in this one process: with plain batch norms the
    mean over the ranks' shards, each run by itself; with SyncBatchNorm those of the big batch."""
    model = _twin(trainer, dtype)
    model.zero_grad(set_to_none=True)
    many = len(everyone[0])
    if any(isinstance(module, nn.SyncBatchNorm) for module in model.modules()):
        model = _unsynchronised(model)
        for number in range(many):
            samples = torch.cat([rank[number][0] for rank in everyone])
            labels = torch.cat([rank[number][1] for rank in everyone])
            _backward(trainer, model, (samples, labels), many, dtype)
    else:
        for rank in everyone:
            for batch in rank:
                _backward(trainer, model, batch, many * len(everyone), dtype)
    return _unscaled(model, _scale(trainer) if dtype is None else 1.0)


def _scale(trainer: Trainer) -> float:
    return trainer.scaler.get_scale() if trainer.scaler.is_enabled() else 1.0


def _unscaled(model: nn.Module, scale: float) -> Gradients:
    return {n: p.grad.double() / scale for n, p in model.named_parameters() if p.grad is not None}


def _backward(
    trainer: Trainer, model: nn.Module, batch: Batch, divisor: int, dtype: torch.dtype | None
) -> None:
    samples, labels = cast(batch, dtype)
    if dtype is not None:
        loss = _wide(trainer, dtype, lambda: trainer.loss(trainer.call(model, samples), labels))
        (loss / divisor).backward()
        return
    with trainer.autocast():
        loss = trainer.loss(trainer.call(model, samples), labels) / divisor
    (loss * _scale(trainer)).backward()


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


def _distance(found: Gradients, truth: Gradients) -> float | None:
    error = sum(
        float((found[n].to(t.device) - t).square().sum()) if n in found else float(t.square().sum())
        for n, t in truth.items()
    )
    norm = sum(float(t.square().sum()) for t in truth.values())
    return (error / norm) ** 0.5 if norm and error == error else None


def _worst(found: Gradients, truth: Gradients) -> list[list[Any]]:
    rows: list[list[Any]] = [
        [name, _distance({name: found[name]}, {name: t}) if name in found else None]
        for name, t in truth.items()
    ]
    known = [row for row in rows if row[1] is not None]
    return sorted(known, key=lambda row: -row[1])[:5]


def fixed_batch(trainer: Trainer) -> list[float]:
    """The loss of each of some steps on one batch, its mean over ranks; dropout is off."""
    batches = first_batches(trainer, trainer.node.SOLVER.ACCUMULATE)
    model = _twin(trainer, None)
    wrapped, optimizer = trainer.wrap(model), trainer.build_optimizer(model)
    losses = []
    for _ in range(FIXED_STEPS):
        loss = trainer.train_step(wrapped, optimizer, batches).double()
        dist.all_reduce(loss)
        losses.append(float(loss) / trainer.place.world)
    return losses


class _Bomb:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("the disk is full")


def interrupted_save(trainer: Trainer, folder: Path) -> str:
    """Save a checkpoint, then save again and fail half-way: what is wrong with the file after that.

    On rank 0; the others give ""."""
    if trainer.place.rank:
        return ""
    file = folder / "interrupted.pt"
    trainer.write({"step": 1, "value": torch.ones(8)}, file)
    good = file.read_bytes()
    try:
        trainer.write({"step": 2, "value": torch.zeros(8), "bomb": _Bomb()}, file)
        return "an error while writing is not passed on"
    except Exception:
        pass
    if not file.exists():
        return "the previous checkpoint is gone after a save that failed half-way"
    kept = file.read_bytes() == good
    left = [entry.name for entry in folder.iterdir() if entry.name.startswith(".interrupted.pt")]
    file.unlink()
    for name in left:
        (folder / name).unlink()
    return "" if kept else "a save that failed half-way has destroyed the previous checkpoint"


def after(trainer: Trainer) -> dict[str, Any]:
    """Of the trained state: orders of two epochs, buffers, rates, what was recorded."""
    trainer.synchronise_buffers()
    model, record = trainer.model, trainer.record
    reassigned = [name for name, buffer in model.named_buffers() if trainer.at_wrap.get(name) is not buffer]
    return {
        "orders": list(_orders(trainer)),
        "samples": len(trainer.data.dataset),
        "reassigned": reassigned,
        "final_buffers": sums(model.buffers()).tolist(),
        "final_buffer_names": [name for name, _ in model.named_buffers()],
        "trained_late": _unreduced(trainer),
        "losses": record.losses,
        "seconds": record.seconds,
        "rates": record.rates,
        "digests": [row.tolist() for row in record.digests],
        "validations": record.validations,
        "in_eval": record.in_eval,
        "resting": trainer.resting,
        "scale": trainer.scaler.get_scale() if trainer.scaler.is_enabled() else None,
    }


def _orders(trainer: Trainer) -> Iterator[list[int]]:
    for epoch in (0, 1):
        trainer.new_epoch(epoch)
        yield list(trainer.data.sampler)


def _unreduced(trainer: Trainer) -> list[str]:
    """Parameters that require grad now and did not at the wrap."""
    return [n for n, p in trainer.model.named_parameters() if p.requires_grad and n in trainer.frozen_at_wrap]


def fingerprint(trainer: Trainer) -> list[int]:
    """Of everything that a resume restores: parameters, buffers, optimizer, scheduler, scaler, draws."""
    tensors: list[Tensor] = [*trainer.model.parameters(), *trainer.model.buffers()]
    for parameter in trainer.model.parameters():
        state = trainer.optimizer.state.get(parameter, {})
        tensors += [value for value in state.values() if isinstance(value, Tensor)]
    tensors.append(torch.get_rng_state())
    plain = [
        trainer.step,
        trainer.epoch,
        trainer.batch,
        trainer.scheduler.best,
        trainer.scheduler.num_bad_epochs,
        *(group["lr"] for group in trainer.optimizer.param_groups),
        trainer.scaler.get_scale() if trainer.scaler.is_enabled() else 0.0,
    ]
    tensors.append(torch.tensor([float(value) for value in plain], dtype=torch.float64))
    return sums(tensors).tolist()


def bare_seconds(trainer: Trainer, steps: int = 3) -> float:
    """Seconds of a step of the same model on the same batch without DDP, alone on the machine: rank 0
    measures while the others wait; the smallest of some steps."""
    import time

    batches = first_batches(trainer, 1)
    best = float("inf")
    if trainer.place.rank == 0:
        model = _twin(trainer, None)
        optimizer = trainer.build_optimizer(model)
        for _ in range(steps + 1):
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            _backward(trainer, model, batches[0], 1, None)
            optimizer.step()
            if trainer.place.device != "cpu":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    dist.barrier()
    return best if trainer.place.rank == 0 else 0.0
