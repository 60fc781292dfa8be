"""What is measured before, beside and after the training: plain values of one rank, judged by the checks.

Whatever runs a model here runs a copy of it, so that the training itself is not disturbed.
"""

from __future__ import annotations

import os
import pickle
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from inspector.distributed import checkpoint, solver
from inspector.distributed.digest import digests, is_sharded, local, sums, whole
from inspector.distributed.gradients import alone, backward, first_batches, twin
from inspector.distributed.loop import STATEFUL, Trainer

FIXED_STEPS = 10
"""Steps on one batch, in which the loss must fall."""
PICTURES = 4
"""Samples that are augmented on every rank."""
EPOCHS = (0, 1, 2)
"""Those whose orders and augmentation are compared."""


def before(trainer: Trainer) -> dict[str, Any]:
    """The set-up: weights, buffers, the optimizer's groups, the length of the loader, random draws."""
    trainer.new_epoch(0)
    model = trainer.model
    return {
        "names": [name for name, _ in model.named_parameters()],
        "data": f"{trainer.data.name}: {len(trainer.data.dataset)} samples to train on",
        "initial": trainer.initial.tolist(),
        "wrapped": digests(model).tolist(),
        "whole": sums(map(whole, model.parameters())).tolist() if trainer.sharded else None,
        "sharded": [name for name, p in model.named_parameters() if is_sharded(p)],
        **_fsdp(trainer),
        "buffer_names": [name for name, _ in model.named_buffers()],
        "buffers": sums(model.buffers()).tolist(),
        "at_wrap": list(trainer.at_wrap),
        "frozen": [name for name, p in model.named_parameters() if not p.requires_grad],
        "steps_per_epoch": len(trainer.data.train),
        "augmented": _pictures(trainer),
        "augments": bool(trainer.node.DATA.AUGMENT) and trainer.data.augments,
        "draws": sums([torch.get_rng_state()]).tolist(),
        "groups": _groups(trainer.optimizer, model),
    }


def _fsdp(trainer: Trainer) -> dict[str, Any]:
    """Of FSDP2: the modules whose parameters it gathers together, and what its backend does."""
    if not trainer.sharded:
        return {}
    from inspector.distributed import fsdp

    adds = fsdp.adds_for_average(trainer.place.device)
    return {"units": fsdp.sharded_units(trainer.model), "adds_for_average": adds}


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
    augmented: list[list[int]] = []
    reassigned = [name for name, buffer in model.named_buffers() if trainer.at_wrap.get(name) is not buffer]
    return {
        "orders": list(_orders(trainer, augmented)),
        "augmented": augmented,
        "epochs": record.epochs,
        "batches": record.batches,
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
        "due_rates": _due_rates(trainer),
        "digests": [row.tolist() for row in record.digests],
        "validations": record.validations,
        "in_eval": record.in_eval,
        "resting": trainer.resting,
        "drifted": record.drifted,
    }


def _orders(trainer: Trainer, augmented: list[list[int]]) -> Iterator[list[int]]:
    """The order of each of EPOCHS; `augmented` gets the sums of some samples, as they are augmented there."""
    for epoch in EPOCHS:
        trainer.new_epoch(epoch)
        augmented.append(_pictures(trainer))
        yield list(trainer.data.sampler)


def _pictures(trainer: Trainer) -> list[int]:
    data = trainer.data.dataset
    samples = [data[index][0] for index in range(min(PICTURES, len(data)))]
    return sums(s if isinstance(s, Tensor) else torch.as_tensor(s) for s in samples).tolist()


def _due_rates(trainer: Trainer) -> list[list[float]] | None:
    """The rates that ReduceLROnPlateau gives at each step, for the losses that were validated; None where
    another scheduler is at work."""
    record, kind = trainer.record, type(trainer.scheduler)
    if kind is not ReduceLROnPlateau or not record.rates:
        return None
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in record.rates[0]]
    mirror = solver.scheduler(torch.optim.SGD(groups), trainer.node.SOLVER)
    mirror.load_state_dict(record.start or {})
    losses = {entry["step"]: entry["loss"] for entry in record.validations}
    first, rates = trainer.step - len(record.rates), []
    for number in range(1, len(record.rates) + 1):
        rates.append([group["lr"] for group in mirror.optimizer.param_groups])
        if first + number in losses:
            mirror.step(losses[first + number])
    return rates


@contextmanager
def writes(trainer: Trainer) -> Iterator[set[str]]:
    """The files that this rank writes checkpoints to, with its machine in front."""
    places, write, save = set[str](), trainer.write, torch.save

    def see(place: Any) -> None:
        if isinstance(place, (str, os.PathLike)):
            places.add(f"{platform.node()}:{Path(place).resolve()}")

    def seen_write(state: dict[str, Any], file: Path) -> None:
        see(file)
        write(state, file)

    def seen_save(value: Any, file: Any, *more: Any, **named: Any) -> None:
        see(getattr(file, "name", file))
        save(value, file, *more, **named)

    trainer.write, torch.save = seen_write, seen_save  # type: ignore[method-assign, assignment]
    try:
        yield places
    finally:
        torch.save = save
        del trainer.write


def unrestored(trainer: Trainer, file: Path) -> list[str]:
    """What a rank that has just resumed from `file` holds otherwise than the file says, by dotted path."""
    saved, now = trainer.saved(file), trainer.state()
    names = [name for name in ("step", "epoch", "batch", *STATEFUL) if name in saved and name in now]
    wrong = list(_differing({n: saved[n] for n in names}, {n: now[n] for n in names}))
    states = saved["random"][trainer.place.rank], checkpoint.random_states()
    return wrong + [f"random.{path}" for path in _differing(*states)]


def _same(one: Tensor, other: Tensor) -> bool:
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _differing(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """The dotted paths of what is not equal; NaN equals NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            inner = f"{path}.{key}" if path else str(key)
            if key in one and key in other:
                yield from _differing(one[key], other[key], inner)
            else:
                yield inner
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other)):
            yield from _differing(*pair, f"{path}.{number}")
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        one, other = one.cpu(), other.cpu()
        if one.shape != other.shape or one.dtype != other.dtype or not _same(one, other):
            yield path
    elif one != other and not (one != one and other != other):
        yield path


def fingerprint(trainer: Trainer) -> list[int]:
    """Of everything that a resume restores: parameters, buffers, optimizer, scheduler, scaler, draws."""
    tensors: list[Tensor] = [*map(local, trainer.model.parameters()), *trainer.model.buffers()]
    for parameter in trainer.model.parameters():
        state = trainer.optimizer.state.get(parameter, {})
        tensors += [local(value) for value in state.values() if isinstance(value, Tensor)]
    tensors.append(torch.get_rng_state())
    scheduled = trainer.scheduler.state_dict().values()
    plain = [
        trainer.step,
        trainer.epoch,
        trainer.batch,
        *(value for value in scheduled if isinstance(value, (int, float))),
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
