"""Faults of gradients: not averaged, not divided, sent too often, or missing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from inspector.distributed.loop import Batch, Trainer
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.ddp.runs import Plain, findings


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


@fault("ddp", check="unused_parameters")
def unused_layer() -> list[Finding]:
    """A layer that no forward uses: DDP raises at the second step."""
    return findings(Plain, model="tests.distributed.nets:Unused")


@clean("ddp")
def unused_layer_that_is_allowed() -> list[Finding]:
    """find_unused_parameters is on: said, and no failure."""
    return findings(Plain, model="tests.distributed.nets:Unused", settings={"DDP.FIND_UNUSED": True})


@clean("ddp")
def deep_network_in_bfloat16() -> list[Finding]:
    """Gradients that rounding moves too far from float64 are compared with those of one process."""
    return findings(Plain, model="tests.distributed.nets:Deep", settings={"AMP.ENABLED": True})
