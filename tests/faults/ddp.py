"""Planted faults of data-parallel training: each trains, most without a word, and none trains right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler

from inspector.distributed.loop import Batch, Trainer
from inspector.reporting.report import Finding
from tests.distributed.local import train

from . import clean, fault

FREEZE = {"FREEZE.PATTERNS": "['stem.*']"}


def findings(trainer: type[Trainer], **options: Any) -> list[Finding]:
    return train(f"{__name__}:{trainer.__name__}", **options).findings


class NoSetEpoch(Trainer):
    def new_epoch(self, epoch: int) -> None:
        self.data.dataset.epoch = epoch


@fault("ddp", check="set_epoch")
def no_set_epoch() -> list[Finding]:
    """sampler.set_epoch is never called: every epoch has the order of the first."""
    return findings(NoSetEpoch)


class SamplerWithoutRank(Trainer):
    def build_data(self) -> Any:
        data = super().build_data()
        data.sampler = DistributedSampler(data.dataset, 1, 0, seed=self.job.seed)
        data.train.sampler.sampler = data.sampler
        return data


@fault("ddp", check="uneven")
def sampler_of_one_rank_only() -> list[Finding]:
    """One rank's sampler was told that it is alone: it has twice the batches, and waits for ever."""

    return findings(OneWithoutRank)


class OneWithoutRank(SamplerWithoutRank):
    def build_data(self) -> Any:
        return super().build_data() if self.place.rank else Trainer.build_data(self)


@fault("ddp", check="sampler")
def sampler_without_rank() -> list[Finding]:
    """The sampler knows neither rank nor world size: every rank trains on the same samples."""
    return findings(SamplerWithoutRank)


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


class OptimizerBeforeFreezing(Trainer):
    def build_model(self) -> nn.Module:
        prepare, self.prepare = self.prepare, lambda model: None
        model = super().build_model()
        self.early = Trainer.build_optimizer(self, model)
        prepare(model)
        self.prepare = prepare
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return self.early if model is self.model else super().build_optimizer(model)


@fault("ddp", check="optimizer")
def optimizer_built_before_freezing() -> list[Finding]:
    """The optimizer holds parameters that were frozen after it was built."""
    return findings(OptimizerBeforeFreezing, settings=FREEZE)


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


class ForwardOutsideNoSync(Trainer):
    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        total = torch.zeros(())
        for number, (samples, labels) in enumerate(batches):
            loss = self.loss(self.call(wrapped, samples), labels) / len(batches)
            if number < len(batches) - 1:
                with wrapped.no_sync():
                    loss.backward()
            else:
                loss.backward()
            total += loss.detach()
        return total


@fault("ddp", check="accumulation")
def forward_outside_no_sync() -> list[Finding]:
    """Only the backward is inside no_sync(): every accumulated batch is reduced."""
    return findings(ForwardOutsideNoSync, settings={"SOLVER.ACCUMULATE": 2})


class NotDivided(Trainer):
    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        return (
            super().forward_backward(wrapped, batches) if len(batches) == 1 else self._sum(wrapped, batches)
        )

    def _sum(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        for batch in batches[:-1]:
            with wrapped.no_sync():
                self.loss(self.call(wrapped, batch[0]), batch[1]).backward()
        loss = self.loss(self.call(wrapped, batches[-1][0]), batches[-1][1])
        loss.backward()
        return loss.detach()


@fault("ddp", check="accumulation")
def accumulated_loss_not_divided() -> list[Finding]:
    """Accumulated batches are summed, not averaged: the step is as many times too large."""
    return findings(NotDivided)


class SumsOverRanks(Trainer):
    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        loss = super().forward_backward(wrapped, batches)
        for parameter in wrapped.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.place.world
        return loss


@fault("ddp", check="gradients")
def gradients_summed_over_ranks() -> list[Finding]:
    """Gradients are the sum over the ranks, not the mean."""
    return findings(SumsOverRanks)


@fault("ddp", check="gradients")
def gradients_summed_in_bfloat16() -> list[Finding]:
    """The same where rounding hides it from float64: a deep network in BF16."""
    return findings(SumsOverRanks, model="tests.distributed.nets:Deep", settings={"AMP.ENABLED": True})


class NotReduced(Trainer):
    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        with wrapped.no_sync():
            return super().forward_backward(wrapped, batches)


@fault("ddp", check="gradients")
def gradients_not_reduced() -> list[Finding]:
    """Everything runs inside no_sync(): each rank trains a model of its own."""
    return findings(NotReduced)


class LocalMetric(Trainer):
    def reduce(self, sums: Tensor) -> None:
        """Each rank keeps its own."""


@fault("ddp", check="scheduler")
def local_metric_for_the_scheduler() -> list[Finding]:
    """ReduceLROnPlateau is fed each rank's own validation loss."""
    return findings(LocalMetric)


class TornSave(Trainer):
    def write(self, state: dict[str, Any], file: Path) -> None:
        torch.save(state, file)


@fault("ddp", check="checkpoint")
def save_that_is_not_atomic() -> list[Finding]:
    """torch.save onto the checkpoint itself: an interrupt destroys the only one."""
    return findings(TornSave)


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


class Plain(Trainer):
    """The trainer as it is; the fault is in the model."""


class Uneven(Trainer):
    def build_data(self) -> Any:
        data = super().build_data()
        if self.place.rank == 1:
            data.train.batch_sampler.sampler.sampler.num_samples -= 8  # type: ignore[union-attr]
            data.sampler.total_size = data.sampler.num_samples * self.place.world
        return data


@fault("ddp", check="uneven")
def uneven_batches_without_join() -> list[Finding]:
    """One rank has fewer batches: the others wait for its gradients."""
    return findings(Uneven)


class SameDraws(Trainer):
    def draws_seed(self) -> int:
        return self.job.seed


@fault("ddp", check="random_draws")
def same_random_state_on_all_ranks() -> list[Finding]:
    """Every rank seeds itself alike: dropout drops the same units everywhere."""
    return findings(SameDraws)


class SameAugmentation(Trainer):
    def build_data(self) -> Any:
        data = super().build_data()
        data.dataset.rank = 0
        return data


@fault("ddp", check="random_draws")
def same_augmentation_on_all_ranks() -> list[Finding]:
    """Augmentation is seeded without the rank."""
    return findings(SameAugmentation)


class InEval(Trainer):
    def begin(self) -> None:
        super().begin()
        self.wrapped.eval()


@fault("ddp", check="mode")
def model_left_in_eval() -> list[Finding]:
    """The model trains in eval mode."""
    return findings(InEval)


@fault("ddp", check="optimizer")
def learning_rate_of_zero() -> list[Finding]:
    """The learning rate is zero."""
    return findings(Plain, settings={"SOLVER.BASE_LR": 0.0})


class BiasesLikeWeights(Trainer):
    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


@fault("ddp", check="optimizer")
def biases_without_their_own_rule() -> list[Finding]:
    """Biases get the rate and the decay of weights."""
    return findings(BiasesLikeWeights)


class Climbs(Trainer):
    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        return -super().loss(outputs, labels)

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        return -super().train_step(wrapped, optimizer, batches)


@fault("ddp", check="loss_falls")
def loss_that_does_not_fall() -> list[Finding]:
    """The sign of the loss is wrong: training climbs."""
    return findings(Climbs)


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


@fault("ddp", check="unused_parameters")
def unused_layer() -> list[Finding]:
    """A layer that no forward uses: DDP raises at the second step."""
    return findings(Plain, model="tests.distributed.nets:Unused")


class ForgetsMomentum(Trainer):
    def restore(self, state: dict[str, Any]) -> None:
        empty = self.optimizer.state_dict()
        super().restore(state)
        self.optimizer.load_state_dict(empty)


@fault("ddp", check="resume")
def resume_without_the_optimizer() -> list[Finding]:
    """A resume restores the weights and not the momentum."""
    return findings(ForgetsMomentum)


class StartsTheEpochAnew(Trainer):
    def restore(self, state: dict[str, Any]) -> None:
        super().restore({**state, "batch": 0})


@fault("ddp", check="resume")
def resume_at_the_start_of_the_epoch() -> list[Finding]:
    """A resume forgets how far the epoch was: samples are seen twice."""
    return findings(StartsTheEpochAnew)


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


@clean("ddp")
def small_network() -> list[Finding]:
    """A convolutional network with batch norm and dropout, two processes."""
    return findings(Plain)


@clean("ddp")
def registered_buffer_assigned_anew() -> list[Finding]:
    """A buffer that is assigned anew and stays registered: torch 2 follows it, so that is a note."""
    return findings(Plain, model="tests.distributed.nets:AssignsRegistered")


@clean("ddp")
def one_process() -> list[Finding]:
    """The same in one process."""
    return findings(Plain, nproc=1)


@clean("ddp")
def four_processes() -> list[Finding]:
    """The same in four."""
    return findings(Plain, nproc=4)


@clean("ddp")
def layer_norms_only() -> list[Finding]:
    """No batch norm: shards and the big batch have the same gradients."""
    return findings(Plain, model="tests.distributed.nets:LayerNorms")


@clean("ddp")
def frozen_stem_with_accumulation() -> list[Finding]:
    """Frozen parameters, two batches a step."""
    return findings(Plain, settings={**FREEZE, "SOLVER.ACCUMULATE": 2})


@clean("ddp")
def autocast_to_bfloat16() -> list[Finding]:
    """Mixed precision on the CPU."""
    return findings(Plain, settings={"AMP.ENABLED": True})


@clean("ddp")
def deep_network_in_bfloat16() -> list[Finding]:
    """Gradients that rounding moves too far from float64 are compared with those of one process."""
    return findings(Plain, model="tests.distributed.nets:Deep", settings={"AMP.ENABLED": True})


@clean("ddp")
def autocast_to_float16_with_scaler() -> list[Finding]:
    """float16 with GradScaler."""
    return findings(Plain, settings={"AMP.ENABLED": True, "AMP.DTYPE": "float16"})


@clean("ddp")
def loader_with_workers() -> list[Finding]:
    """Batches come from processes of the loader."""
    return findings(Plain, settings={"DATA.WORKERS": 2})


@clean("ddp")
def adamw_on_synthetic_data() -> list[Finding]:
    """Another optimizer, on random tensors."""
    settings = {"SOLVER.OPTIMIZER": "adamw", "SOLVER.BASE_LR": 0.001, "DATA.SOURCE": "synthetic"}
    return findings(Plain, settings=settings)


@clean("ddp")
def unused_layer_that_is_allowed() -> list[Finding]:
    """find_unused_parameters is on: said, and no failure."""
    return findings(Plain, model="tests.distributed.nets:Unused", settings={"DDP.FIND_UNUSED": True})


class Sleeps(Trainer):
    """For the tests of the launcher: rank 1 stops moving."""

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        import time

        while self.place.rank == 1 and self.step == 2 and wrapped is self.wrapped:
            time.sleep(1.0)
        return super().train_step(wrapped, optimizer, batches)


class Raises(Trainer):
    """For the tests of the launcher: rank 1 raises."""

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        if self.place.rank == 1 and self.step == 2:
            raise ValueError("planted here")
        return super().train_step(wrapped, optimizer, batches)


class DiesOnce(Trainer):
    """For the tests of the launcher: rank 1 is killed by a signal in the first start of the group."""

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        import os
        import signal

        if self.place.rank == 1 and self.step == 4 and self.place.attempt == 0 and wrapped is self.wrapped:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().train_step(wrapped, optimizer, batches)
