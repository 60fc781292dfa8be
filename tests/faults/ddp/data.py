"""Faults of samples and random draws: order, shards, augmentation."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DistributedSampler

from inspector.distributed.loop import Trainer
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.ddp.runs import Plain, findings


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


@clean("ddp")
def loader_with_workers() -> list[Finding]:
    """Batches come from processes of the loader."""
    return findings(Plain, settings={"DATA.WORKERS": 2})


@clean("ddp")
def adamw_on_synthetic_data() -> list[Finding]:
    """Another optimizer, on random tensors."""
    settings = {"SOLVER.OPTIMIZER": "adamw", "SOLVER.BASE_LR": 0.001, "DATA.SOURCE": "synthetic"}
    return findings(Plain, settings=settings)
