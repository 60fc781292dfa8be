"""Faults by which the frozen part mixes the samples of a batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inspector.freezing import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.freeze.nets import Net, checked, claim, frozen_at, naive, net


@fault("freeze", check="batch_independence")
def no_running_statistics() -> list[Finding]:
    """track_running_stats=False: no buffer moves, yet every output depends on the batch."""
    model = net(norm=lambda n: nn.BatchNorm2d(n, track_running_stats=False))
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="batch_independence")
def zero_momentum() -> list[Finding]:
    """momentum=0 keeps the statistics still, but the batch still normalises itself."""
    model = net(norm=lambda n: nn.BatchNorm2d(n, momentum=0.0))
    model.bn1.num_batches_tracked = None
    claimed = claim(model, at=1, norm="train")
    naive(model, claimed)
    return checked(model, claimed)


class BatchScale(nn.Module):
    """Normalises by the batch by hand, in train mode and in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


@fault("freeze", check="batch_independence")
def handmade_batch_norm() -> list[Finding]:
    """A norm of the user's own that no flag can freeze."""
    model = net(norm=lambda n: BatchScale())
    claimed = claim(model, at=1)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="batch_independence")
def pattern_without_statistics() -> list[Finding]:
    """The same for a part that is frozen by pattern, not by stage."""
    model = net(
        block=lambda i, o: nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o, track_running_stats=False))
    )
    claimed = claim(model, at=None, patterns=["layer2.*"])
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="batch_independence")
def pattern_beside_stages() -> list[Finding]:
    """A stage by number and another part by pattern, whose batch norm has no statistics."""
    model = net()
    model.layer3[1] = nn.BatchNorm2d(8, track_running_stats=False)
    claimed = claim(model, at=1, patterns=["layer3.*"])
    apply(model, claimed)
    return checked(model, claimed)


class Encoder(nn.Module):
    """A projection, attention over tokens and a head: (N, L, 8) or (L, N, 8) to (N, 3)."""

    def __init__(self, batch_first: bool, pooled: int | None = 1) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)
        self.attend = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
        self.head = nn.Linear(8, 3)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        x = self.attend(self.project(x))
        return self.head(x if self.pooled is None else x.mean(self.pooled))


def _attending(shape: tuple[int, ...], **options: Any) -> list[Finding]:
    model = net(cls=Encoder, **options)
    claimed = claim(model, at=None, patterns=["attend.*"])
    apply(model, claimed)
    return checked(model, claimed, torch.randn(shape, generator=torch.Generator().manual_seed(1)))


@fault("freeze", check="batch_independence")
def attention_across_the_batch() -> list[Finding]:
    """A batch-first input given to batch_first=False: the model's output has the batch first."""
    return _attending((4, 6, 8), batch_first=False)


@fault("freeze", check="batch_independence")
def attention_across_a_batch_as_long_as_the_sequence() -> list[Finding]:
    """The same where sizes tell nothing."""
    return _attending((4, 4, 8), batch_first=False)


@fault("freeze", check="batch_independence")
def attention_across_images() -> list[Finding]:
    """Patches of images, batch first, through an encoder that takes the sequence first."""

    class Patches(Encoder):
        def __init__(self) -> None:
            super().__init__(batch_first=False)
            self.patches = nn.Conv2d(3, 8, 4, stride=4)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.patches(x).flatten(2).transpose(1, 2))

    model = net(cls=Patches)
    claimed = claim(model, at=None, patterns=["attend.*"])
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="batch_independence")
def recurrence_across_the_batch() -> list[Finding]:
    """A batch-first input given to an LSTM that runs along the first dimension."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 6)
            self.head = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    model = net(cls=Reader)
    claimed = claim(model, at=None, patterns=["lstm.*"])
    apply(model, claimed)
    return checked(model, claimed, torch.randn(4, 6, 8))


@fault("freeze", check="batch_independence")
def centred_by_the_batch() -> list[Finding]:
    """A frozen layer without a norm subtracts the mean of the batch."""

    class Centred(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x - x.mean(dim=0, keepdim=True))

    model = net()
    model.layer1 = Centred(8, 8, 1)
    claimed = claim(model)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="batch_independence")
def smallest_of_the_batch_is_dropped() -> list[Finding]:
    """A frozen layer silences the sample with the least signal: the first and the last are spared."""

    class Best(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = x.mean(dim=(1, 2, 3))
            return x * (score >= score.median()).view(-1, 1, 1, 1)

    model = net(norm=lambda n: Best())
    claimed = claim(model, at=1)
    apply(model, claimed)
    return checked(model, claimed)


@fault("freeze", check="prefix_output")
def memory_of_the_batch_before() -> list[Finding]:
    """A frozen layer adds the last batch that it saw."""

    class Remembering(nn.Module):
        before: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            y = x if self.before is None else x + 0.1 * self.before
            self.before = x.detach()
            return y

    model = net(norm=lambda n: Remembering())
    claimed = claim(model, at=1)
    apply(model, claimed)
    return checked(model, claimed)


@clean("freeze", "batch_independence")
def batch_first_attention() -> list[Finding]:
    """The right layout, batch first."""
    return _attending((4, 6, 8), batch_first=True)


@clean("freeze", "batch_independence")
def sequence_first_attention() -> list[Finding]:
    """The right layout, sequence first: the output has the input's second dimension."""
    return _attending((6, 4, 8), batch_first=False, pooled=0)


@clean("freeze")
def one_output_for_each_token() -> list[Finding]:
    """Nothing tells the batch from the sequence: skipped, and said."""
    findings = _attending((6, 4, 8), batch_first=False, pooled=None)
    assert [f.status for f in findings if f.check == "batch_independence"] == ["skip"]
    return findings


@clean("freeze")
def trainable_head_that_needs_a_batch() -> list[Finding]:
    """An auxiliary head between the frozen stages, whose batch norm raises on one sample alone."""

    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            self.auxiliary = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4))

        def forward(self, x: Tensor) -> Any:
            x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
            aside = self.auxiliary(x)
            return self.fc(self.layer3(self.layer2(x)).mean(dim=(2, 3))), aside

    return frozen_at(net(cls=Auxiliary), 3)


@clean("freeze")
def sequence_first() -> list[Finding]:
    """A recurrent layer whose first dimension is the sequence, frozen in the middle of a model."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, 6, 4, stride=4)
            self.lstm = nn.LSTM(6, 5, bidirectional=True)
            self.fc = nn.Linear(10, 2)

        def forward(self, x: Tensor) -> Tensor:
            steps = self.embed(x).flatten(2).permute(2, 0, 1)
            return self.fc(self.lstm(steps)[0][-1])

    model = net(cls=Reader)
    claimed = claim(model, at=None, patterns=["lstm.*"])
    apply(model, claimed)
    findings = checked(model, claimed)
    assert [f.status for f in findings if f.check == "batch_independence"] == ["pass"]
    return findings


@clean("freeze")
def inputs_changed_in_place() -> list[Finding]:
    """A model that normalises its input in place, and a frozen block that begins with an in-place op."""

    class InPlace(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5).div_(0.25))

    model = net(cls=InPlace)
    model.layer1 = nn.Sequential(nn.Conv2d(8, 8, 1))
    model.layer2 = nn.Sequential(nn.SiLU(inplace=True), nn.Conv2d(8, 8, 1))
    claimed = claim(model, at=1, patterns=["layer2.*"])
    apply(model, claimed)
    return checked(model, claimed)
