"""Faults of shared memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import checked, claim, frozen_at, net


@fault("freeze", check="ties")
def view_tied_weight() -> list[Finding]:
    """A trainable parameter is a view of a frozen one's memory."""
    model = net()
    model.layer3[0].weight = nn.Parameter(model.layer1[0].weight.data.view(8, 8, 3, 3))
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


def _tied_by(memory: Tensor, other: Tensor) -> list[Finding]:
    """The stem's weight in `memory`, layer3's in `other`."""
    model = net()
    model.layer1[0].weight = nn.Parameter(memory)
    model.layer3[0].weight = nn.Parameter(other)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


def _array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(8, 8, 3, 3)).astype("float32") / 8


@fault("freeze", check="ties")
def tied_through_numpy() -> list[Finding]:
    """Two storages around one array: torch sees no tie."""
    array = _array()
    return _tied_by(torch.from_numpy(array), torch.from_numpy(array))


@fault("freeze", check="parameters")
def tied_through_part_of_an_array() -> list[Finding]:
    """The trainable weight begins in the middle of the frozen one's array; the steps on the copy show it."""
    array = np.random.default_rng(0).normal(size=900).astype("float32") / 8
    first, second = array[:576].reshape(8, 8, 3, 3), array[300:876].reshape(8, 8, 3, 3)
    return _tied_by(torch.from_numpy(first), torch.from_numpy(second))


@fault("freeze", check="ties")
def tied_through_dlpack() -> list[Finding]:
    """A capsule makes another storage of the same memory."""
    weight = torch.from_numpy(_array())
    return _tied_by(weight, torch.from_dlpack(weight))


@fault("freeze", check="ties")
def tied_through_a_storage_of_its_own() -> list[Finding]:
    """`.data` of a view, set on a storage that was made from the address of the first."""
    weight = torch.from_numpy(_array())
    view = torch.frombuffer(memoryview(weight.numpy()).cast("B"), dtype=torch.float32)  # type: ignore[arg-type]
    return _tied_by(weight, view.view(8, 8, 3, 3).data)


@fault("freeze", check="ties")
def running_mean_tied_to_a_bias() -> list[Finding]:
    """A frozen buffer is a view of a trainable bias."""
    model = net()
    model.layer1[1].running_mean = model.layer3[0].bias.data
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="ties")
def every_second_column() -> list[Finding]:
    """A strided view that shares some of its elements with the frozen weight, and not its first."""
    memory = torch.randn(2 * 576)
    frozen = memory[:576].view(8, 8, 3, 3)
    trainable = memory.as_strided((8, 8, 3, 3), (72, 9, 3, 1), 500)
    return _tied_by(frozen, trainable)


@clean("freeze", "ties")
def columns_of_one_matrix() -> list[Finding]:
    """Frozen and trainable weights are columns of one memory: ranges that meet, elements that do not."""
    memory = torch.randn(8, 16, 3, 3) / 8
    return _tied_by(memory[:, :8], memory[:, 8:])


@clean("freeze", "ties")
def rows_of_one_array() -> list[Finding]:
    """Weights that lie side by side in one array, as flat checkpoints give them."""
    array = np.random.default_rng(0).normal(size=(2, 8, 8, 3, 3)).astype("float32") / 8
    return _tied_by(torch.from_numpy(array[0]), torch.from_numpy(array[1]))


@clean("freeze")
def tied_weights_all_frozen() -> list[Finding]:
    """One parameter under two names, both in the frozen part."""
    model = net()
    model.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    model.layer1[1].weight = model.layer1[0].weight
    return frozen_at(model, 2)


@clean("freeze")
def tied_to_a_trainable_name() -> list[Finding]:
    """An output layer that is the frozen embedding itself: said, not accused."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(3, 8, bias=False)
            self.mix = nn.Linear(8, 8)
            self.head = nn.Linear(3, 8, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.mix(self.embed(x.mean(dim=(2, 3)))) @ self.head.weight

    model = net(cls=Tied)
    claimed = claim(model, at=None, patterns=["embed.weight"])
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.subject for f in findings if f.check == "ties" and f.status == "warn"] == ["head.weight"]
    return findings
