"""Faults of the seed, and of tensors that are drawn twice."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from inspector.initialization.builds import builds
from inspector.initialization.checks import SEED
from inspector.initialization.checks.twice import Filled, written_twice
from inspector.initialization.writes import written
from inspector.reporting.checks import examine
from inspector.reporting.report import Finding
from tests.faults import clean, fault


@fault("init", check="written_twice")
def tied_tensor_drawn_twice() -> list[Finding]:
    """Two names of one tensor, and a loop over the modules draws it for each."""

    def run() -> nn.Module:
        first, second = nn.Linear(32, 32), nn.Linear(32, 32)
        second.weight = first.weight
        model = nn.Sequential(first, second)
        for layer in model:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
        return model

    writes = written(run)
    return written_twice(Filled(writes.result, writes))


@fault("init", check="seed_ignored")
def own_generator_ignores_the_seed() -> list[Finding]:
    """A generator with a fixed seed of its own: every run starts from the same weights."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Linear(32, 32)
        nn.init.kaiming_uniform_(model.weight, generator=torch.Generator().manual_seed(42))
        return model

    return examine(SEED, builds(build, 0))


@fault("init", check="reproducible")
def numpy_is_not_seeded() -> list[Finding]:
    """Weights from np.random.default_rng(): no seed reaches it."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Linear(32, 32)
        values = np.random.default_rng().normal(size=(32, 32)).astype("float32")
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(values))
        return model

    return examine(SEED, builds(build, 0))


@clean("init", "written_twice", "reproducible", "seed_ignored")
def network_that_the_seed_decides() -> list[Finding]:
    """torch's own generator, seeded before each build; every tensor is filled once."""

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 8))

    writes = written(lambda: build(0))
    return [*written_twice(Filled(writes.result, writes)), *examine(SEED, builds(build, 0))]
