"""What is measured before, beside and after the training: plain values of one rank, judged by the checks.

Whatever runs a model here runs a copy of it, so that the training itself is not disturbed.
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from inspector.distributed.digest import sums
from inspector.distributed.gradients import alone, backward, first_batches, twin
from inspector.distributed.loop import Trainer

FIXED_STEPS = 10
"""Steps on one batch, in which the loss must fall."""
PICTURES = 4
"""Samples that are augmented on every rank."""


def before(trainer: Trainer) -> dict[str, Any]:
    """The set-up: weights, buffers, the optimizer's groups, the length of the loader, random draws."""
    trainer.new_epoch(0)
    samples = [trainer.data.dataset[index][0] for index in range(min(PICTURES, len(trainer.data.dataset)))]
    model = trainer.model
    return {
        "names": [name for name, _ in model.named_parameters()],
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
    own = {id(p): name for name, p in model.named_parameters()}
    return [
        {
            "lr": group["lr"],
            "weight_decay": group.get("weight_decay"),
            "names": [own.get(id(p), "(not of this model)") for p in group["params"]],
        }
        for group in optimizer.param_groups
    ]


def fixed_batch(trainer: Trainer) -> list[float]:
    """The loss at each of FIXED_STEPS steps on one batch, averaged over the ranks; dropout is off."""
    batches = first_batches(trainer, trainer.node.SOLVER.ACCUMULATE)
    model = twin(trainer, None)
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
    with tempfile.TemporaryDirectory(dir=folder) as place:
        file = Path(place) / "interrupted.pt"
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
    return "" if kept else "a save that failed half-way has destroyed the previous checkpoint"


def after(trainer: Trainer) -> dict[str, Any]:
    """The trained state: orders of two epochs, buffers, rates, and what was recorded."""
    trainer.synchronise_buffers()
    model, record = trainer.model, trainer.record
    reassigned = [name for name, buffer in model.named_buffers() if trainer.at_wrap.get(name) is not buffer]
    return {
        "orders": list(_orders(trainer)),
        "samples": len(trainer.data.dataset),
        "reassigned": reassigned,
        "final_buffers": sums(model.buffers()).tolist(),
        "final_buffer_names": [name for name, _ in model.named_buffers()],
        "trained_late": [
            n for n, p in model.named_parameters() if p.requires_grad and n in trainer.frozen_at_wrap
        ],
        "losses": record.losses,
        "seconds": record.seconds,
        "rates": record.rates,
        "digests": [row.tolist() for row in record.digests],
        "validations": record.validations,
        "in_eval": record.in_eval,
        "resting": trainer.resting,
    }


def _orders(trainer: Trainer) -> Iterator[list[int]]:
    for epoch in (0, 1):
        trainer.new_epoch(epoch)
        yield list(trainer.data.sampler)


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
        trainer.scaler.get_scale(),
    ]
    tensors.append(torch.tensor([float(value) for value in plain], dtype=torch.float64))
    return sums(tensors).tolist()


def bare_seconds(trainer: Trainer, steps: int = 3) -> float:
    """Seconds of a step of the same model on the same batch without DDP, alone on the machine: rank 0
    measures while the others wait; the fastest of some steps."""
    batches = first_batches(trainer, 1)
    best = float("inf")
    if trainer.place.rank == 0:
        model = alone(trainer, None)
        optimizer = trainer.build_optimizer(model)
        for _ in range(steps + 1):
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            backward(trainer, model, batches[0], 1, None)
            optimizer.step()
            if trainer.place.device != "cpu":
                torch.cuda.synchronize(trainer.place.device)
            best = min(best, time.perf_counter() - start)
    dist.barrier()
    return best if trainer.place.rank == 0 else 0.0
