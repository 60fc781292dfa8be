"""The training of one rank. Each method is one part of a training script, and may be overridden."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inspector.core.errors import InspectError
from inspector.core.log import logger
from inspector.distributed import checkpoint, data, solver
from inspector.distributed.digest import digests
from inspector.distributed.job import Job, Place
from inspector.models.inputs import Inputs, InputSpec, index_range, materialise, parse_inputs
from inspector.models.loss import loss_of
from inspector.models.subject import Recipe
from inspector.tracing.capture.isolate import seed_all

VALIDATION_BATCHES = 8
"""At most so many validation batches on each rank."""

Batch = tuple[Any, Any]


@dataclass
class Record:
    """What happened at each step: mean loss of this rank, seconds, learning rates of the groups, sums of
    the bits of every parameter (first row: after the wrap). `validations` hold step, loss, accuracy and
    the scheduler's state after it."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    digests: list[Any] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    in_eval: list[str] | None = None


class Trainer:
    """Data-parallel training of one model on one rank: `setup()`, then `run(steps)`.

    `prepare` initialises and freezes the model before the wrap. Attributes after `setup()`: `model`,
    `wrapped`, `optimizer`, `scheduler`, `scaler`, `data`, `record`; `step`, `epoch` and `batch` say how
    far it is. Collective: every rank calls the same methods in the same order.
    """

    def __init__(
        self,
        job: Job,
        place: Place,
        recipe: Recipe,
        prepare: Callable[[nn.Module], None] = lambda model: None,
        build: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.job, self.place, self.recipe, self.prepare = job, place, recipe, prepare
        self.build = build or (lambda: recipe.build("cpu", job.seed))
        self.node = job.settings
        self.inputs = parse_inputs(job.inputs)
        self.amp = solver.amp_dtype(self.node.AMP, place.device)
        self.step = self.epoch = self.batch = 0
        self.record = Record()

    def setup(self) -> None:
        """Build everything: the same weights on every rank, other random draws from then on."""
        seed_all(self.job.seed)
        self.model = self.build_model()
        self.initial = digests(self.model)
        self.data = self.build_data()
        self.wrapped = self.wrap(self.model)
        self.at_wrap = dict(self.model.named_buffers())
        self.frozen_at_wrap = {n for n, p in self.model.named_parameters() if not p.requires_grad}
        self.resting = [path for path, module in self.model.named_modules() if not module.training]
        self.optimizer = self.build_optimizer(self.model)
        self.scheduler = solver.scheduler(self.optimizer, self.node.SOLVER)
        self.scaler = solver.scaler(self.amp, self.place.device)
        self.rest = self.other_inputs()
        self.settle()
        seed_all(self.draws_seed())

    def settle(self) -> None:
        """One backward that changes nothing: DDP orders its buckets by the first one. Sums of three ranks and
        more depend on that order in their last bit, and a resumed run must have the same."""
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        args, kwargs = self.rest
        samples = next(iter((*args, *kwargs.values())))
        labels = torch.zeros(len(samples), dtype=torch.int64)
        self.forward_backward(self.wrapped, [(samples, labels)])
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])

    def draws_seed(self) -> int:
        """Of dropout and augmentation: another on each rank."""
        return self.job.seed + 1 + self.place.rank

    def build_model(self) -> nn.Module:
        """The model on the device, initialised and frozen as the configuration says."""
        model = self.build()
        self.prepare(model)
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise InspectError("every parameter is frozen: there is nothing to train", "freeze less")
        if self.node.DDP.SYNC_BN:
            if self.place.device == "cpu":
                raise InspectError("SyncBatchNorm runs on GPUs only", "leave out `sync_bn=`")
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return model.to(self.place.device).train()

    def wrap(self, model: nn.Module) -> DistributedDataParallel:
        """DistributedDataParallel: gradients are averaged, buffers come from rank 0."""
        on_gpu = self.place.device.startswith("cuda")
        return DistributedDataParallel(
            model,
            device_ids=[self.place.local] if on_gpu else None,
            find_unused_parameters=self.node.DDP.FIND_UNUSED,
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """With its own rate and decay for biases."""
        return solver.optimizer(model, self.node.SOLVER)

    def build_data(self) -> data.Data:
        """This rank's loaders."""
        rank, seed = self.place.rank, self.job.seed
        return data.load(self.node.DATA, self.spec(), index_range(self.model), seed, rank, self.place.world)

    def spec(self) -> InputSpec:
        """The tensor that a sample becomes: the first input."""
        first = next(iter((*self.inputs.args, *self.inputs.kwargs.values())), None)
        if not isinstance(first, InputSpec) or not first.shape:
            raise InspectError(
                f"{self.recipe.name} takes no tensor of samples: it cannot be trained here",
                'give `inputs="8x3x32x32"`, or wrap it in a model that takes one',
            )
        return first

    def other_inputs(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Values of all inputs, fixed; the first is replaced by each batch."""
        seed = self.job.seed + self.place.rank
        return materialise(self.inputs, self.model, self.place.device, seed)

    def call(self, model: nn.Module, samples: Any) -> Any:
        """The model on a batch of samples."""
        args, kwargs = self.rest
        samples = samples.to(self.place.device, non_blocking=True)
        if args:
            return model(samples, *args[1:], **kwargs)
        return model(**{**kwargs, next(iter(kwargs)): samples})

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        """Cross-entropy of logits (the model's own loss where it gives one)."""
        return loss_of(outputs, labels.to(self.place.device, non_blocking=True))

    def autocast(self) -> AbstractContextManager[Any]:
        if self.amp is None:
            return nullcontext()
        return torch.autocast(torch.device(self.place.device).type, self.amp)

    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        """The mean loss of the batches; gradients are added up, and averaged over ranks at the last."""
        total = torch.zeros((), device=self.place.device)
        for number, (samples, labels) in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else wrapped.no_sync():  # the forward, too
                with self.autocast():
                    loss = self.loss(self.call(wrapped, samples), labels) / len(batches)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        """One optimizer step."""
        optimizer.zero_grad(set_to_none=True)
        loss = self.forward_backward(wrapped, batches)
        self.scaler.step(optimizer)
        self.scaler.update()
        return loss

    def new_epoch(self, epoch: int) -> None:
        """Another order, and other augmentation, in each epoch."""
        self.data.sampler.set_epoch(epoch)
        self.data.dataset.epoch = epoch

    def groups(self) -> Iterator[list[Batch]]:
        """The batches of each step, from epoch to epoch; `epoch` and `batch` follow."""
        size, many = self.node.DATA.BATCH, self.node.SOLVER.ACCUMULATE
        while True:
            self.new_epoch(self.epoch)
            self.data.train.sampler.start = self.batch * size  # type: ignore[attr-defined]
            group: list[Batch] = []
            for batch in self.data.train:
                group.append(batch)
                if len(group) == many:
                    self.batch += many
                    yield group
                    group = []
            self.epoch, self.batch = self.epoch + 1, 0

    def run(
        self,
        steps: int,
        tell: Callable[[Trainer, float], None] = lambda trainer, loss: None,
        file: Path | None = None,
    ) -> None:
        """Train until `steps` in all are done; validate, and save to `file`, at the steps due."""
        for group in self.groups() if self.step < steps else ():
            start = time.perf_counter()
            if self.record.in_eval is None:
                self.record.in_eval = [
                    path or "(model)" for path, m in self.model.named_modules() if not m.training
                ]
            loss = float(self.train_step(self.wrapped, self.optimizer, group))
            self.step += 1
            self.record.seconds.append(time.perf_counter() - start)
            self.record.losses.append(loss)
            self.record.rates.append([entry["lr"] for entry in self.optimizer.param_groups])
            self.record.digests.append(digests(self.model))
            if self.due(steps):
                self.validate()
                if file is not None:
                    self.save(file)
            tell(self, loss)
            if self.step >= steps:
                break

    def begin(self) -> None:
        """Seed the draws again: what the checks before the training drew must not matter."""
        self.model.zero_grad(set_to_none=True)
        seed_all(self.draws_seed())

    def images_per_second(self) -> float | None:
        """Of all ranks together, over the last ten steps."""
        recent = self.record.seconds[-10:]
        size = self.node.DATA.BATCH * self.node.SOLVER.ACCUMULATE * self.place.world
        return size * len(recent) / sum(recent) if recent else None

    def due(self, steps: int) -> bool:
        """Whether a validation follows this step."""
        return self.step % self.node.SOLVER.VALIDATE_EVERY == 0 or self.step >= steps

    def validate(self) -> None:
        """Loss and accuracy over all ranks; ReduceLROnPlateau steps on that loss, alike on every rank."""
        self.wrapped.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.place.device)
        with torch.no_grad():
            for number, (samples, labels) in enumerate(self.data.validation):
                if number == VALIDATION_BATCHES:
                    break
                with self.autocast():
                    outputs = self.call(self.wrapped, samples)
                    loss = self.loss(outputs, labels)
                sums += torch.stack(
                    [
                        loss.double() * len(labels),
                        hits(outputs, labels),
                        loss.new_tensor(len(labels)).double(),
                    ]
                )
        self.wrapped.train()
        self.reduce(sums)
        mean, accuracy = float(sums[0] / sums[2]), float(sums[1] / sums[2])
        self.scheduler.step(mean)
        state = {key: getattr(self.scheduler, key) for key in ("best", "num_bad_epochs", "last_epoch")}
        self.record.validations.append({"step": self.step, "loss": mean, "accuracy": accuracy, **state})
        logger.info("step %d: validation loss %.4f, accuracy %.3f", self.step, mean, accuracy)

    def synchronise_buffers(self) -> None:
        """Run one validation batch: DDP gives rank 0's buffers to all before a forward."""
        self.wrapped.eval()
        with torch.no_grad(), self.autocast():
            for samples, _ in self.data.validation:
                self.call(self.wrapped, samples)
                break
        self.wrapped.train()

    def reduce(self, sums: Tensor) -> None:
        """Add up over all ranks, in place."""
        dist.all_reduce(sums)

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs but the random states."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "world": self.place.world,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "config": self.job.config,
        }

    def write(self, state: dict[str, Any], file: Path) -> None:
        """Put a checkpoint on disk, whole or not at all."""
        checkpoint.save(state, file)

    def save(self, file: Path) -> None:
        """Rank 0 writes; the others wait, so that whoever goes on finds the file."""
        states: list[Any] = [None] * self.place.world
        dist.all_gather_object(states, checkpoint.random_states())
        if self.place.rank == 0:
            self.write({**self.state(), "random": states}, file)
            logger.info("step %d: saved %s", self.step, file)
        dist.barrier()

    def load(self, file: Path) -> None:
        """Go on where `file` was saved. Nodes without the file get it from rank 0."""
        found: list[Any] = [None] * self.place.world
        dist.all_gather_object(found, file.exists())
        if all(found) or not found[0]:
            state = checkpoint.load(file, "cpu")
        else:
            box = [checkpoint.load(file, "cpu") if self.place.rank == 0 else None]
            dist.broadcast_object_list(box, src=0)
            state = box[0]  # type: ignore[assignment]
        if state["world"] != self.place.world:
            raise InspectError(
                f"the checkpoint was written by {state['world']} processes, and here are {self.place.world}",
                f"use `nproc={state['world']}`",
            )
        try:
            self.restore(state)
        except (RuntimeError, ValueError, KeyError) as error:
            first = str(error).strip().splitlines()[0]
            raise InspectError(
                f"the checkpoint {file} does not fit: {first}", "use the model and settings that wrote it"
            ) from error
        logger.info("resumed at step %d from %s", self.step, file)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a loaded state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        checkpoint.restore_random_states(state["random"][self.place.rank])


def hits(outputs: Any, labels: Tensor) -> Tensor:
    """How many samples have their largest logit at their label; 0 without logits."""
    from inspector.models.values import floats

    for value in floats(outputs):
        if value.dim() == 2 and value.shape[0] == len(labels) and value.shape[1] > 1:
            right = value.argmax(1) == labels.to(value.device) % value.shape[1]
            return right.sum().double()
    return torch.zeros((), dtype=torch.float64, device=labels.device)


def connect(place: Place, backend: str, seconds: float) -> None:
    """Join the process group, through a store of this start: one that a dead start has used breaks gloo's
    full mesh half of the time."""
    from datetime import timedelta

    environment = os.environ
    shared = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    timeout = timedelta(seconds=seconds)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        place.world,
        is_master=place.rank == 0 and not shared,
        timeout=timeout,
    )
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"inspector/{place.attempt}", store),  # type: ignore[attr-defined]
        rank=place.rank,
        world_size=place.world,
        timeout=timeout,
        device_id=torch.device(place.device) if backend == "nccl" else None,
    )
    _never_free(dist.group.WORLD)


def _never_free(group: Any) -> None:
    """Freeing a gloo group can wait for ever: Python holds its lock in the destructor, which joins a thread
    that waits for this lock to free the tensors of the last collective (seen with torch 2.8)."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))


__all__ = ["Batch", "Inputs", "Record", "Trainer", "connect", "hits"]
