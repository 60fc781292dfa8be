"""The training of one rank: its parts put together, step by step, with validation and checkpoints."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from inspector.core.errors import InspectError, first_line
from inspector.core.log import logger
from inspector.distributed import checkpoint, solver
from inspector.distributed.digest import digests, sums
from inspector.distributed.group import gathered
from inspector.distributed.parts import Batch, Parts
from inspector.models.replica import replica
from inspector.tracing.capture.isolate import seed_all
from inspector.tracing.values import floats

VALIDATION_BATCHES = 8
"""The most validation batches that a rank runs."""
STATEFUL = ("model", "optimizer", "scheduler", "scaler")
"""The parts of a trainer that a checkpoint holds the state_dict of."""


def _nothing(trainer: Trainer, batches: list[Batch]) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass
class Record:
    """What happened at each step: mean loss of this rank, seconds, learning rates of the groups, sums of
    the bits of every parameter (first row: after the wrap), the epochs of the sampler and of the
    augmentation; `start` is the scheduler's state before them. `validations` hold step, loss, accuracy and
    the scheduler's state after it; `drifted` are buffers that differed between the ranks when they were
    synchronised."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rates: list[list[float]] = field(default_factory=list)
    digests: list[Any] = field(default_factory=list)
    epochs: list[list[int | None]] = field(default_factory=list)
    start: dict[str, Any] | None = None
    validations: list[dict[str, Any]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    in_eval: dict[str, int] = field(default_factory=dict)
    drifted: list[str] = field(default_factory=list)


class Trainer(Parts):
    """Data-parallel training of one model on one rank: `setup()`, then `run(steps)`.

    Attributes after `setup()`: `model`, `wrapped`, `optimizer`, `scheduler`, `scaler`, `data`, `record`;
    `step`, `epoch` and `batch` say how far it is. `plain` is what one process can run by itself: the model,
    or where that is sharded a copy, as it was at the last `refresh()`. Collective: every rank calls the same
    methods in the same order.
    """

    step = epoch = batch = 0

    def setup(self) -> None:
        """Build everything: the same weights on every rank, different random draws from then on."""
        self.record = Record()
        seed_all(self.job.seed)
        self.model = self.build_model()
        self.initial = digests(self.model)
        self.data = self.build_data()
        self.plain = replica(self.model) if self.sharded else self.model
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
        """One backward that changes nothing: DDP orders its buckets by the first one. Sums over three or more
        ranks depend on that order in their last bit, and a resumed run must get the same sums."""
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        samples = self.first(*self.rest)
        labels = torch.zeros(len(samples), dtype=torch.int64)
        self.forward_backward(self.wrapped, [(samples, labels)])
        self.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                if name in kept:
                    buffer.copy_(kept[name])

    def refresh(self) -> None:
        """Bring `plain` up to date."""
        if self.plain is not self.model:
            from inspector.distributed import fsdp

            fsdp.refresh(self.plain, self.model)

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
        around: Callable[[Trainer, list[Batch]], AbstractContextManager[Any]] = _nothing,
    ) -> None:
        """Train until `steps` are done in all; validate, and save to `file`, at the steps that are due.
        `around` makes a context for each step."""
        self.record.start = self.record.start or copy.deepcopy(self.scheduler.state_dict())
        for group in self.groups() if self.step < steps else ():
            self.look(group)
            with around(self, group):
                start = time.perf_counter()
                loss = float(self.train_step(self.wrapped, self.optimizer, group))
                self.record.seconds.append(time.perf_counter() - start)
            self.step += 1
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

    def look(self, group: list[Batch]) -> None:
        """Note what the step to come trains on, and the modules that are in eval mode."""
        record = self.record
        record.epochs.append([getattr(one, "epoch", None) for one in (self.data.sampler, self.data.dataset)])
        record.batches.append(sum(sums([samples for samples, _ in group]).tolist()))
        for path, module in self.model.named_modules():
            if not module.training:
                record.in_eval.setdefault(path or "(model)", self.step + 1)

    def begin(self) -> None:
        """Seed the draws again: what the checks before the training drew must not matter."""
        self.model.zero_grad(set_to_none=True)
        seed_all(self.draws_seed())

    def images_per_second(self) -> float | None:
        """All ranks together, over the last ten steps."""
        recent = self.record.seconds[-10:]
        size = self.node.DATA.BATCH * self.node.SOLVER.ACCUMULATE * self.place.world
        return size * len(recent) / sum(recent) if recent else None

    def due(self, steps: int) -> bool:
        """Whether a validation follows this step."""
        return self.step % self.node.SOLVER.VALIDATE_EVERY == 0 or self.step >= steps

    def validate(self) -> None:
        """Loss and accuracy over all ranks; ReduceLROnPlateau steps on that loss, alike on every rank."""
        if self.sharded:
            self.synchronise_buffers()
        self.wrapped.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.place.device)
        with torch.no_grad():
            for samples, labels in islice(self.data.validation, VALIDATION_BATCHES):
                with self.autocast():
                    outputs = self.call(self.wrapped, samples)
                    loss = self.loss(outputs, labels)
                count = sums.new_tensor(len(labels))
                sums += torch.stack([loss.double() * count, hits(outputs, labels), count])
        self.wrapped.train()
        if self.sharded:
            from inspector.distributed import fsdp

            fsdp.reshard(self.model)
        self.reduce(sums)
        mean, accuracy = float(sums[0] / sums[2]), float(sums[1] / sums[2])
        self.scheduler.step(mean)
        state = {key: getattr(self.scheduler, key) for key in ("best", "num_bad_epochs", "last_epoch")}
        self.record.validations.append({"step": self.step, "loss": mean, "accuracy": accuracy, **state})
        logger.info("step %d: validation loss %.4f, accuracy %.3f", self.step, mean, accuracy)

    def synchronise_buffers(self) -> None:
        """Run one validation batch: DDP gives rank 0's buffers to all before a forward. FSDP2 never does:
        there they are sent before each validation, and the checkpoint that follows it."""
        if self.sharded:
            from inspector.distributed import fsdp

            drifted = fsdp.broadcast_buffers(self.model)
            self.record.drifted += [name for name in drifted if name not in self.record.drifted]
            return
        self.wrapped.eval()
        with torch.no_grad(), self.autocast():
            for samples, _ in islice(self.data.validation, 1):
                self.call(self.wrapped, samples)
        self.wrapped.train()

    def state(self) -> dict[str, Any]:
        """Everything that a resume needs but the random states."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "world": self.place.world,
            "shard": self.node.DDP.SHARD,
            **{name: getattr(self, name).state_dict() for name in STATEFUL if not self._held_in_shards(name)},
            **self._whole(),
            "config": self.job.config,
        }

    def _held_in_shards(self, name: str) -> bool:
        return self.sharded and name in ("model", "optimizer")

    def _whole(self) -> dict[str, Any]:
        """The whole state of what the ranks hold in shards, on every rank."""
        if not self.sharded:
            return {}
        from inspector.distributed import fsdp

        return fsdp.state(self.model, self.optimizer)

    def save(self, file: Path) -> None:
        """Rank 0 writes; the others wait, so that every rank finds the file."""
        states = gathered(checkpoint.random_states())
        state = self.state()
        if self.place.rank == 0:
            self.write({**state, "random": states}, file)
            logger.info("step %d: saved %s", self.step, file)
        dist.barrier()

    def load(self, file: Path) -> None:
        """Resume where `file` was saved."""
        state = self.saved(file)
        checkpoint.check(state, self.place.world, self.node.SOLVER.STEPS, self.node.DDP.SHARD)
        try:
            self.restore(state)
        except (RuntimeError, ValueError, KeyError) as error:
            message = f"the checkpoint {file} does not fit: {first_line(error)}"
            raise InspectError(message, "use the model and settings that wrote it") from error
        logger.info("resumed at step %d from %s", self.step, file)

    def saved(self, file: Path) -> dict[str, Any]:
        """The state in `file`, on every rank: nodes without the file get it from rank 0."""
        exists = gathered(file.exists())
        if all(exists) or not exists[0]:
            return checkpoint.load(file)
        box: list[Any] = [checkpoint.load(file) if self.place.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        state: dict[str, Any] = box[0]
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a loaded state."""
        for name in STATEFUL:
            if not self._held_in_shards(name):
                getattr(self, name).load_state_dict(state[name])
        if self.sharded:
            from inspector.distributed import fsdp

            fsdp.load(self.model, self.optimizer, state)
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        checkpoint.restore_random_states(state["random"][self.place.rank])


def hits(outputs: Any, labels: Tensor) -> Tensor:
    """How many samples have their largest logit at their label, on the outputs' device; 0 without logits."""
    values = floats(outputs)
    for value in values:
        if value.dim() == 2 and value.shape[0] == len(labels) and value.shape[1] > 1:
            right = value.argmax(1) == labels.to(value.device) % value.shape[1]
            return right.sum().double()
    return torch.zeros((), dtype=torch.float64, device=values[0].device if values else labels.device)
