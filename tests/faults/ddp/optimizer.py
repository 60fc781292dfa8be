"""Faults of the optimizer, the scheduler and the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from inspector.distributed.loop import Batch, Trainer
from inspector.reporting.report import Finding
from tests.faults import fault
from tests.faults.ddp.runs import FREEZE, Plain, findings


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


class LocalMetric(Trainer):
    def reduce(self, sums: Tensor) -> None:
        """Each rank keeps its own."""


@fault("ddp", check="scheduler")
def local_metric_for_the_scheduler() -> list[Finding]:
    """ReduceLROnPlateau is fed each rank's own validation loss."""
    return findings(LocalMetric)


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
