"""Faults of training that FSDP2 shards, and their clean twins."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from inspector.distributed.loop import Batch, Trainer
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.ddp.runs import FREEZE, Plain, findings

SHARD = {"DDP.SHARD": "fsdp"}


class LeftOut(Trainer):
    def wrap(self, model: nn.Module) -> Any:
        mesh = init_device_mesh("cpu", (self.place.world,))
        return fully_shard(model, mesh=mesh, ignored_params=set(model.head.parameters()))


@fault("ddp", check="gradients")
def layer_left_out_of_the_wrap() -> list[Finding]:
    """FSDP2 ignores the head: nobody averages its gradients."""
    return findings(LeftOut, settings=SHARD)


class LeftOutLater(LeftOut):
    """The checks before the training run on copies, which are wrapped whole."""

    def wrap(self, model: nn.Module) -> Any:
        return super().wrap(model) if model is self.model else Trainer.wrap(self, model)


@fault("ddp", check="parameters")
def layer_that_drifts_apart() -> list[Finding]:
    """The same in the training alone: each rank trains a head of its own."""
    return findings(LeftOutLater, settings=SHARD)


class Adds(Trainer):
    def wrap(self, model: nn.Module) -> Any:
        wrapped = super().wrap(model)
        for module in wrapped.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)
                module.set_gradient_divide_factor(1.0)
        return wrapped


@fault("ddp", check="gradients")
def sharded_gradients_summed_over_ranks() -> list[Finding]:
    """The divisor of the reduction is one: the sum over the ranks, not the mean."""
    return findings(Adds, settings=SHARD)


class SumsLater(Trainer):
    def forward_backward(self, wrapped: Any, batches: list[Batch]) -> Tensor:
        loss = super().forward_backward(wrapped, batches)
        for parameter in wrapped.parameters() if wrapped is self.wrapped and self.step else ():
            parameter.grad *= self.place.world
        return loss


@fault("ddp", check="later_gradients")
def sharded_gradients_summed_from_the_second_step_on() -> list[Finding]:
    """The first step's gradients are the mean, the others the sum over the ranks."""
    return findings(SumsLater, settings=SHARD)


class SyncsEach(Trainer):
    def unreduced(self, wrapped: Any) -> Any:
        return nullcontext()


@fault("ddp", check="accumulation")
def sharded_gradients_reduced_at_each_batch() -> list[Finding]:
    """set_requires_gradient_sync(False) is missing: every accumulated batch is reduced."""
    return findings(SyncsEach, settings={**SHARD, "SOLVER.ACCUMULATE": 2})


class OptimizerFirst(Trainer):
    def wrap(self, model: nn.Module) -> Any:
        self.early = list(model.parameters())
        return super().wrap(model)

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return (
            torch.optim.SGD(self.early, lr=0.001) if model is self.model else super().build_optimizer(model)
        )


@fault("ddp", check="optimizer")
def optimizer_built_before_the_wrap() -> list[Finding]:
    """The optimizer holds the parameters that fully_shard replaced: nothing trains."""
    return findings(OptimizerFirst, settings=SHARD)


class NotLoaded(Trainer):
    def wrap(self, model: nn.Module) -> Any:
        wrapped = super().wrap(model)
        if self.place.rank == 1:
            with torch.no_grad():
                wrapped.head.weight.to_local().zero_()
        return wrapped


@fault("ddp", check="initial_weights")
def shard_that_is_not_what_was_built() -> list[Finding]:
    """One rank's rows are zero after the wrap, as after to_empty() without an initialisation."""
    return findings(NotLoaded, settings=SHARD)


class ForgetsMomentumOnOneRank(Trainer):
    def restore(self, state: dict[str, Any]) -> None:
        super().restore(state)
        for entry in self.optimizer.state.values() if self.place.rank else ():
            entry["momentum_buffer"].to_local().zero_()


@fault("ddp", check="resume")
def resume_without_the_optimizer_on_one_rank() -> list[Finding]:
    """One rank does not restore its shard of the momentum."""
    return findings(ForgetsMomentumOnOneRank, settings=SHARD)


class SavesItsShard(Trainer):
    def state(self) -> dict[str, Any]:
        state = super().state()
        tensors = self.model.state_dict()
        rows = {n: t.to_local().clone() if hasattr(t, "to_local") else t for n, t in tensors.items()}
        whole = state["model"]
        kept = {n: torch.cat([rows[n], torch.zeros_like(t[len(rows[n]) :])]) if t.dim() else t
                for n, t in whole.items()}  # fmt: skip
        return {**state, "model": kept}


@fault("ddp", check="resume")
def checkpoint_of_one_shard() -> list[Finding]:
    """Rank 0 saves the rows that it holds; those of the others are lost."""
    return findings(SavesItsShard, settings=SHARD)


class NoBroadcast(Trainer):
    def synchronise_buffers(self) -> None:
        """FSDP2 does not do it either."""


@fault("ddp", check="buffers")
def buffers_that_nobody_synchronises() -> list[Finding]:
    """Running statistics drift apart, and a checkpoint has those of rank 0."""
    return findings(NoBroadcast, settings=SHARD)


@fault("ddp", check="unused_parameters")
def unused_layer_of_a_sharded_model() -> list[Finding]:
    """FSDP2 trains on without it, and the optimizer cannot be resumed."""
    return findings(Plain, model="tests.distributed.nets:Unused", settings=SHARD)


@clean(
    "ddp",
    *"initial_weights optimizer gradients later_gradients accumulation parameters resume".split(),
)
def sharded_network() -> list[Finding]:
    """A network whose buffers drift apart, one of which its outputs depend on: that is told."""
    found = findings(Plain, model="tests.distributed.nets:Scaled", settings=SHARD)
    told = [f for f in found if f.check == "buffers"]
    assert {f.status for f in told} == {"warn"}, [f.sentence for f in found]
    assert {"norm.running_mean", "norm.running_var", "seen"} == set(told[0].evidence["names"])
    return found


@clean("ddp", "buffers", "gradients", "resume")
def sharded_transformer_with_tied_weights() -> list[Finding]:
    """A tied weight, and rows that three ranks share unevenly: some hold none."""
    found = findings(
        Plain, model="tests.distributed.nets:Tied", nproc=3, inputs=("int64[4,6]",),
        settings={**SHARD, "SOLVER.OPTIMIZER": "adamw"},
    )  # fmt: skip
    assert not [f for f in found if f.check == "buffers"]  # it has none
    return found


@clean("ddp", "frozen", "accumulation")
def sharded_frozen_stem_in_float16() -> list[Finding]:
    """Frozen parameters, two batches a step, GradScaler, no momentum."""
    more = {"SOLVER.ACCUMULATE": 2, "SOLVER.MOMENTUM": 0.0, "AMP.ENABLED": True, "AMP.DTYPE": "float16"}
    return findings(Plain, settings={**SHARD, **FREEZE, **more})


@clean("ddp")
def sharded_over_one_process() -> list[Finding]:
    """FSDP2 with one rank, whose gradients no reduction takes."""
    return findings(Plain, nproc=1, settings=SHARD)
