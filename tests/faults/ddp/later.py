"""Faults that come after the first step: nothing before the training shows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from inspector.distributed import checkpoint
from inspector.distributed.group import gathered
from inspector.distributed.loop import Batch, Trainer
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.ddp.runs import Plain, findings


class Later(Trainer):
    """The training itself, not the copies on which the checks run: `late` says from which step on."""

    late = 1

    def turned(self, wrapped: DistributedDataParallel) -> bool:
        return self.step >= self.late and wrapped is self.wrapped


class SumsLater(Later):
    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        loss = super().forward_backward(wrapped, batches)
        for parameter in wrapped.parameters() if self.turned(wrapped) else ():
            parameter.grad *= self.place.world
        return loss


@fault("ddp", check="later_gradients")
def gradients_summed_from_the_second_step_on() -> list[Finding]:
    """The first step's gradients are the mean, the others the sum over the ranks."""
    return findings(SumsLater)


class AloneAtTheEnd(Later):
    late = 5

    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        if not self.turned(wrapped):
            return super().forward_backward(wrapped, batches)
        with wrapped.no_sync():
            return super().forward_backward(wrapped, batches)


@fault("ddp", check="later_gradients")
def gradients_not_reduced_at_the_last_step() -> list[Finding]:
    """The last step runs inside no_sync()."""
    return findings(AloneAtTheEnd)


class DropsOne(Later):
    late = 2

    def forward_backward(self, wrapped: DistributedDataParallel, batches: list[Batch]) -> Tensor:
        loss = super().forward_backward(wrapped, batches)
        if self.turned(wrapped):
            wrapped.module.head.bias.grad.zero_()  # type: ignore[union-attr, operator]
        return loss


@fault("ddp", check="later_gradients")
def a_gradient_that_is_dropped_after_two_steps() -> list[Finding]:
    """One bias gets no gradient any more."""
    return findings(DropsOne)


class StopsStepping(Later):
    late = 2

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        if self.turned(wrapped):
            optimizer.zero_grad(set_to_none=True)
            return self.forward_backward(wrapped, batches)
        return super().train_step(wrapped, optimizer, batches)


@fault("ddp", check="later_gradients")
def optimizer_that_steps_twice_only() -> list[Finding]:
    """After two steps the optimizer is not called any more."""
    return findings(StopsStepping)


class Rates(Later):
    late = 2
    factor = 0.0

    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        for group in optimizer.param_groups if self.turned(wrapped) else ():
            group["lr"] *= self.factor
        return super().train_step(wrapped, optimizer, batches)


@fault("ddp", check="scheduler")
def rate_that_becomes_zero() -> list[Finding]:
    """The learning rate is zero from the third step on."""
    return findings(Rates)


class Halves(Rates):
    factor = 0.5


@fault("ddp", check="scheduler")
def rate_that_something_else_halves() -> list[Finding]:
    """A second scheduler halves the rate at every step."""
    return findings(Halves)


class SamplerEpochOnly(Trainer):
    def new_epoch(self, epoch: int) -> None:
        self.data.sampler.set_epoch(epoch)


@fault("ddp", check="set_epoch")
def augmentation_of_the_first_epoch_for_ever() -> list[Finding]:
    """The sampler gets the epoch, the dataset does not: every epoch augments a sample alike."""
    return findings(SamplerEpochOnly)


class StuckEpoch(Trainer):
    def groups(self) -> Iterator[list[Batch]]:
        for group in super().groups():
            yield group
            self.epoch = -1 if self.batch >= len(self.data.train) else 0


@fault("ddp", check="set_epoch")
def loop_that_stays_in_its_first_epoch() -> list[Finding]:
    """The loop never counts its epochs: set_epoch(0) again and again."""
    return findings(StuckEpoch, settings={"DATA.SOURCE": "synthetic", "DATA.SAMPLES": 20})


class AllWrite(Trainer):
    def save(self, file: Path) -> None:
        states = gathered(checkpoint.random_states())
        self.write({**self.state(), "random": states}, file)


@fault("ddp", check="checkpoint")
def every_rank_writes_the_checkpoint() -> list[Finding]:
    """All ranks write one file."""
    return findings(AllWrite)


class Forgets(Trainer):
    part = "scheduler"

    def restore(self, state: dict[str, Any]) -> None:
        own = getattr(self, self.part).state_dict()
        super().restore({**state, self.part: {name: value.clone() for name, value in own.items()}
                         if self.part == "model" else own})  # fmt: skip


@fault("ddp", check="resume")
def resume_without_the_scheduler() -> list[Finding]:
    """The scheduler starts anew, where no drop of the rate was due."""
    return findings(Forgets)


class ForgetsScaler(Forgets):
    part = "scaler"


@fault("ddp", check="resume")
def resume_without_the_scaler() -> list[Finding]:
    """GradScaler starts anew, where its scale has not changed yet."""
    return findings(ForgetsScaler, settings={"AMP.ENABLED": True, "AMP.DTYPE": "float16"})


class ForgetsBuffers(Trainer):
    def restore(self, state: dict[str, Any]) -> None:
        own = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        super().restore({**state, "model": {**state["model"], **own}})


@fault("ddp", check="resume")
def resume_without_the_running_statistics() -> list[Finding]:
    """Only parameters are restored: batch norm evaluates with fresh statistics."""
    return findings(ForgetsBuffers)


class ForgetsDraws(Trainer):
    def restore(self, state: dict[str, Any]) -> None:
        super().restore({**state, "random": [checkpoint.random_states()] * self.place.world})


@fault("ddp", check="resume")
def resume_without_the_random_states() -> list[Finding]:
    """A resume seeds its draws anew."""
    return findings(ForgetsDraws)


class OneBatch(Trainer):
    def groups(self) -> Iterator[list[Batch]]:
        while True:
            self.batch = 0
            yield next(super().groups())


@fault("ddp", check="sampler")
def next_of_a_new_iterator_at_every_step() -> list[Finding]:
    """next(iter(loader)): every step trains on the first batch."""
    return findings(OneBatch)


class OwnLoader(Trainer):
    def build_data(self) -> Any:
        data = super().build_data()
        drawn = torch.Generator().manual_seed(self.job.seed)
        data.train = DataLoader(
            data.dataset, data.train.batch_size, shuffle=True, drop_last=True, generator=drawn
        )
        data.train.sampler.start = 0  # type: ignore[attr-defined]
        return data


@fault("ddp", check="sampler")
def loader_that_shuffles_without_the_sampler() -> list[Finding]:
    """The loader has a shuffle of its own: the ranks train on the same batches."""
    return findings(OwnLoader, settings={"DATA.AUGMENT": False, "DATA.SOURCE": "synthetic"})


class StaysInEval(Trainer):
    def validate(self) -> None:
        super().validate()
        self.wrapped.eval()


@fault("ddp", check="mode")
def validation_that_leaves_the_model_in_eval() -> list[Finding]:
    """After the first validation the model trains in eval mode."""
    return findings(StaysInEval)


class Explodes(Later):
    late = 3

    def loss(self, outputs: Any, labels: Tensor) -> Tensor:
        return super().loss(outputs, labels) * (float("nan") if self.step >= self.late else 1.0)


@fault("ddp", check="loss_falls")
def loss_that_becomes_nan() -> list[Finding]:
    """The loss is NaN from the fourth step on."""
    return findings(Explodes)


class Clips(Trainer):
    def train_step(
        self, wrapped: DistributedDataParallel, optimizer: torch.optim.Optimizer, batches: list[Batch]
    ) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = self.forward_backward(wrapped, batches)
        torch.nn.utils.clip_grad_norm_(wrapped.parameters(), 0.1)
        optimizer.step()
        return loss


@clean("ddp", "later_gradients", "scheduler", "loss_falls")
def clipping_before_each_step() -> list[Finding]:
    """Gradients are clipped to a norm: a multiple of what they are, and told."""
    report = findings(Clips)
    assert [f.status for f in report if f.check == "later_gradients"] == ["warn"]
    return report


@clean("ddp", "set_epoch", "sampler", "mode", "resume", "checkpoint")
def several_epochs() -> list[Finding]:
    """An epoch of two steps, on samples that are few."""
    return findings(Plain, settings={"DATA.SOURCE": "synthetic", "DATA.SAMPLES": 20})
