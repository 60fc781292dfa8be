"""Faults of what the ranks hold: parameters, buffers, modes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inspector.distributed.loop import Batch, Trainer
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.ddp.runs import FREEZE, Plain, findings


class OtherWeights(Trainer):
    def setup(self) -> None:
        build = self.build

        def seeded() -> nn.Module:
            model = build()
            with torch.no_grad():
                model.head.bias += self.place.rank  # type: ignore[union-attr, operator]
            return model

        self.build = seeded
        super().setup()


@fault("ddp", check="initial_weights")
def ranks_build_other_weights() -> list[Finding]:
    """Ranks build different weights; the broadcast at the wrap hides it."""
    return findings(OtherWeights)


class ChangedOnOneRank(Trainer):
    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        loss = super().train_step(wrapped, optimizer, batches)
        if self.place.rank == 1 and self.step == 2:
            with torch.no_grad():
                self.model.head.weight[0, 0] += 1e-6  # type: ignore[union-attr, index]
        return loss


@fault("ddp", check="parameters")
def parameter_changed_on_one_rank() -> list[Finding]:
    """One element of one parameter is changed on one rank by one millionth."""
    return findings(ChangedOnOneRank)


class UnfreezesAfterWrap(Trainer):
    def wrap(self, model: nn.Module) -> DistributedDataParallel:
        wrapped = super().wrap(model)
        if model is self.model:
            self.late = True
        return wrapped

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        if model is self.model:
            self.frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
            model.requires_grad_(True)
        optimizer = super().build_optimizer(model)
        if model is self.model:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name not in self.frozen)
        return optimizer

    def begin(self) -> None:
        super().begin()
        self.model.requires_grad_(True)


@fault("ddp", check="parameters")
def unfreezing_after_the_wrap() -> list[Finding]:
    """Frozen parameters are unfrozen after the wrap: DDP does not reduce their gradients."""
    return findings(UnfreezesAfterWrap, settings=FREEZE)


class MovesFrozen(Trainer):
    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        loss = super().train_step(wrapped, optimizer, batches)
        with torch.no_grad():
            self.model.stem.weight.mul_(0.999)  # type: ignore[union-attr, operator]
        return loss


@fault("ddp", check="frozen")
def frozen_weight_that_decays() -> list[Finding]:
    """Something else moves what the configuration froze."""
    return findings(MovesFrozen, settings=FREEZE)


@fault("ddp", check="buffers")
def buffer_assigned_anew() -> list[Finding]:
    """The forward replaces a buffer by a plain attribute: DDP does not broadcast it any more."""
    return findings(Plain, model="tests.distributed.nets:Reassigns")


class NoBroadcast(Trainer):
    def wrap(self, model: nn.Module) -> DistributedDataParallel:
        return DistributedDataParallel(model, broadcast_buffers=False)


@fault("ddp", check="buffers")
def buffers_not_broadcast() -> list[Finding]:
    """broadcast_buffers=False: each rank evaluates with running statistics of its own."""
    return findings(NoBroadcast)


class InEval(Trainer):
    def begin(self) -> None:
        super().begin()
        self.wrapped.eval()


@fault("ddp", check="mode")
def model_left_in_eval() -> list[Finding]:
    """The model trains in eval mode."""
    return findings(InEval)


@clean("ddp")
def registered_buffer_assigned_anew() -> list[Finding]:
    """A buffer that is assigned anew and stays registered: torch 2 follows it, so that is a note."""
    return findings(Plain, model="tests.distributed.nets:AssignsRegistered")


@clean("ddp", "frozen")
def frozen_stem_with_accumulation() -> list[Finding]:
    """Frozen parameters, two batches a step."""
    return findings(Plain, settings={**FREEZE, "SOLVER.ACCUMULATE": 2})
