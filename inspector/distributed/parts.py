"""The parts of a training script. Each method is one, and may be overridden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inspector.core.errors import InspectError
from inspector.distributed import checkpoint, solver
from inspector.distributed.data import Data
from inspector.distributed.data import load as load_data
from inspector.distributed.job import Job, Place
from inspector.models.inputs import InputSpec, index_range, materialise, parse_inputs
from inspector.models.loss import loss_of
from inspector.models.subject import Recipe

Batch = tuple[Any, Any]
Wrapped = Any
"""A DistributedDataParallel, or with `DDP.SHARD` fsdp the model itself, whose parameters are sharded."""


class Parts:
    """What one rank trains, and with what. `prepare` initialises and freezes the model before the wrap."""

    model: nn.Module
    data: Data
    scaler: torch.amp.GradScaler
    rest: tuple[tuple[Any, ...], dict[str, Any]]

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
        self.sharded = self.node.DDP.SHARD == "fsdp"
        self.inputs = parse_inputs(job.inputs)
        self.amp = solver.amp_dtype(self.node.AMP, place.device)

    def draws_seed(self) -> int:
        """The seed of dropout and augmentation: different on each rank."""
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

    def wrap(self, model: nn.Module) -> Wrapped:
        """DistributedDataParallel: gradients are averaged, buffers come from rank 0. With `DDP.SHARD` fsdp
        FSDP2's `fully_shard`: gradients are averaged, each rank keeps its own buffers."""
        if self.sharded:
            from inspector.distributed import fsdp

            return fsdp.shard(model, self.place.device)
        on_gpu = self.place.device.startswith("cuda")
        return DistributedDataParallel(
            model,
            device_ids=[self.place.local] if on_gpu else None,
            find_unused_parameters=self.node.DDP.FIND_UNUSED,
        )

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Biases get a learning rate and weight decay of their own."""
        return solver.optimizer(model, self.node.SOLVER)

    def build_data(self) -> Data:
        """This rank's loaders."""
        place, seed, below = self.place, self.job.seed, index_range(self.model)
        pin = place.device.startswith("cuda")
        return load_data(self.node.DATA, self.spec(), below, seed, place.rank, place.world, pin)

    def spec(self) -> InputSpec:
        """The tensor that a sample becomes: the first input."""
        spec = self.first(self.inputs.args, self.inputs.kwargs)
        assert isinstance(spec, InputSpec)  # `ddp` refuses everything else
        return spec

    @staticmethod
    def first(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The input that holds the samples."""
        return next(iter((*args, *kwargs.values())))

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

    def unreduced(self, wrapped: Wrapped) -> AbstractContextManager[Any]:
        """Where gradients are added up on their rank, and not averaged."""
        if not self.sharded:
            return wrapped.no_sync()  # type: ignore[no-any-return]
        from inspector.distributed import fsdp

        return fsdp.unreduced(wrapped)

    def forward_backward(self, wrapped: Wrapped, batches: list[Batch]) -> Tensor:
        """The mean loss of the batches; gradients are added up, and averaged over ranks at the last."""
        total = torch.zeros((), device=self.place.device)
        for number, (samples, labels) in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else self.unreduced(wrapped):  # the forward, too
                with self.autocast():
                    loss = self.loss(self.call(wrapped, samples), labels) / len(batches)
                self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def train_step(self, wrapped: Wrapped, optimizer: torch.optim.Optimizer, batches: list[Batch]) -> Tensor:
        """One optimizer step."""
        optimizer.zero_grad(set_to_none=True)
        loss = self.forward_backward(wrapped, batches)
        self.scaler.step(optimizer)
        self.scaler.update()
        return loss

    def new_epoch(self, epoch: int) -> None:
        """Give the epoch its own order and augmentation."""
        self.data.sampler.set_epoch(epoch)
        self.data.dataset.epoch = epoch

    def reduce(self, sums: Tensor) -> None:
        """Add up over all ranks, in place."""
        dist.all_reduce(sums)

    def write(self, state: dict[str, Any], file: Path) -> None:
        """Put a checkpoint on disk, whole or not at all."""
        checkpoint.save(state, file)
