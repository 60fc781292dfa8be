"""Small models that the processes of a test build by name."""

from __future__ import annotations

import torch
from torch import nn


class Small(nn.Module):
    """A convolutional classifier, (N, 3, 8, 8) to (N, 10), with batch norm, dropout and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(8 * 64, 10)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen += 1
        return self.head(self.drop(torch.relu(self.norm(self.stem(x))).flatten(1)))


class Reassigns(Small):
    """Assigns its buffer anew, as a plain attribute, from its own data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen = self.seen * 0.9 + x.detach().mean()
            del self.seen
            self.seen = seen
        return super().forward(x)


class AssignsRegistered(Small):
    """Assigns its buffer anew; it stays registered, and DDP follows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen = self.seen * 0.9 + x.detach().mean()
        return super().forward(x)


class Scaled(Small):
    """Divides by a buffer that each batch moves: a rank's gradients depend on its buffers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.mul_(0.5).add_(x.detach().mean().abs())
        return self.head(torch.relu(self.norm(self.stem(x))).flatten(1)) / (1 + self.seen)


class Unused(Small):
    """Has a layer that the forward does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(4, 4)


class LayerNorms(nn.Module):
    """No batch norm anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.LayerNorm(32), nn.GELU())
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


class Deep(nn.Module):
    """Batch norms one after another without a skip: gradients in BF16 are mostly rounding."""

    def __init__(self) -> None:
        super().__init__()
        layers = [
            layer
            for _ in range(16)
            for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        ]
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, nn.Flatten(), nn.Linear(512, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class Tied(nn.Module):
    """A transformer's block between an embedding and a projection that share their weight, (N, 6) tokens to
    (N, 7); the three stand in one list."""

    def __init__(self) -> None:
        super().__init__()
        embedding, projection = nn.Embedding(7, 8), nn.Linear(8, 7, bias=False)
        projection.weight = embedding.weight
        block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.1, batch_first=True)
        self.parts = nn.ModuleList([embedding, block, projection])

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        embedding, block, projection = self.parts
        return projection(block(embedding(tokens)).mean(1))


class Scalar(Small):
    """Has a parameter without dimensions, which has no rows to shard."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale
