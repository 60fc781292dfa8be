"""Training data: a Dataset with torchvision transforms, and the DataLoaders of one rank.

Augmentation draws from a seed of (seed, epoch, rank, sample), not from the process's random state: it is
the same whatever the number of loader workers, and after a resume.

Loader workers come from a fork server, because gloo's and NCCL's threads do not survive a fork. They stay
from epoch to epoch, and end when the process that they load for has ended.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from inspector.core.errors import InspectError, first_line
from inspector.distributed.forks import IMAGES
from inspector.models.inputs import InputSpec

VALIDATION = 5
"""One in this many samples is for validation."""
CLASSES = 10
"""Labels of synthetic data."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as torchvision's weights expect: https://pytorch.org/vision/stable/models.html."""


class Digits(Dataset[tuple[Any, int]]):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels, as PIL images of mode L."""

    def __init__(self) -> None:
        images, labels = _digits()
        self.images = (images * (255 / 16)).round().astype(np.uint8)
        self.labels = labels.astype(int)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return Image.fromarray(self.images[index]), int(self.labels[index])


def _digits() -> tuple[Any, Any]:
    """Images of values up to 16, and labels. From scikit-learn's own file where it is: its import costs every
    process seconds, and loads nothing else that is needed."""
    package = find_spec("sklearn")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1].reshape(-1, 8, 8), rows[:, -1]
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images, digits.target


class Synthetic(Dataset[tuple[Any, int]]):
    """Seeded random tensors of the shapes that the model takes; the label is the index modulo 10."""

    def __init__(self, spec: InputSpec, below: int, size: int, seed: int) -> None:
        self.spec, self.below, self.size, self.seed = spec, below, size, seed

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        shape, dtype = self.spec.shape[1:], self.spec.dtype
        if dtype.is_floating_point:
            return torch.randn(shape, generator=generator).to(dtype), index % CLASSES
        return torch.randint(self.below, shape, generator=generator).to(dtype), index % CLASSES


class Transformed(Dataset[tuple[Tensor, int]]):
    """A dataset behind a transform whose random draws depend on seed, epoch, rank and sample alone.

    `rank` -1 is for validation: the draws are the same on every rank. `epoch` may be set at any time:
    loader workers see it."""

    def __init__(self, base: Dataset[Any], transform: Callable[[Any], Tensor], seed: int, rank: int) -> None:
        self.base, self.transform, self.seed, self.rank = base, transform, seed, rank
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch[0])

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.base)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        sample, label = self.base[index]
        generator = torch.default_generator  # torch.manual_seed would seed those of all devices as well
        states = random.getstate(), generator.get_state()
        number = hash((self.seed, self.epoch, self.rank, index)) & 0x7FFFFFFF
        random.seed(number)
        generator.manual_seed(number)
        try:
            return self.transform(sample), label
        finally:
            random.setstate(states[0])
            generator.set_state(states[1])


def transform(channels: int, height: int, width: int, augment: bool) -> Callable[[Any], Tensor]:
    """PIL image to a normalised float32 tensor of shape (channels, height, width)."""
    mean, std = (MEAN, STD) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
    from torchvision import transforms  # its import costs every process as much as torch's

    steps: list[Any] = [transforms.Grayscale(channels)] if channels in (1, 3) else []
    steps = [transforms.Lambda(_rgb)] if channels == 3 else steps
    steps.append(transforms.Resize((height, width)))
    if augment:
        steps.append(transforms.RandomCrop((height, width), padding=max(1, min(height, width) // 8)))
        steps.append(transforms.RandomRotation(10))
    steps += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    return transforms.Compose(steps)


def _rgb(image: Any) -> Any:
    return image.convert("RGB")


@dataclass
class Data:
    """The loaders of one rank. `sampler` is the training loader's; `offset` skips its first batches."""

    name: str
    train: DataLoader[Any]
    validation: DataLoader[Any]
    sampler: DistributedSampler[Any]
    dataset: Transformed
    augments: bool


def source(node: Any, spec: InputSpec, below: int, seed: int) -> tuple[str, Dataset[Any], bool]:
    """The dataset that DATA names: (what it is, the dataset, whether its samples are PIL images)."""
    image = spec.dtype.is_floating_point and len(spec.shape) == 4 and spec.shape[1] in (1, 3)
    kind = node.SOURCE
    if kind == "synthetic" or (kind == "digits" and not image):
        name = "synthetic" if kind == "synthetic" else "synthetic (the model takes no images)"
        return name, Synthetic(spec, below, node.SAMPLES, seed), False
    if kind == "digits":
        return "scikit-learn's digits", Digits(), True
    folder = Path(kind).expanduser()
    if not folder.is_dir():
        raise InspectError(
            f"no data at {kind}", "give digits, synthetic, or a folder with one subfolder for each class"
        )
    if not image:
        raise InspectError(f"{kind} holds images, and the model takes none", 'use `data="synthetic"`')
    try:
        from torchvision import datasets

        return str(kind), datasets.ImageFolder(str(folder)), True
    except (FileNotFoundError, OSError) as error:
        raise InspectError(
            f"cannot read images from {kind}: {first_line(error)}",
            "make one subfolder for each class, with images in it",
        ) from error


def load(node: Any, spec: InputSpec, below: int, seed: int, rank: int, world: int, pin: bool = False) -> Data:
    """The data of one rank, in page-locked memory if `pin` (for a GPU). Raises InspectError when a batch on
    every rank needs more samples."""
    name, whole, images = source(node, spec, below, seed)
    size = len(whole)  # type: ignore[arg-type]
    held = [index for index in range(size) if index % VALIDATION == VALIDATION - 1]
    kept = [index for index in range(size) if index % VALIDATION != VALIDATION - 1]
    if node.BATCH * world > len(kept):
        raise InspectError(
            f"a batch of {node.BATCH} on {world} processes is more than the {len(kept)} training samples",
            f"give `batch={max(1, len(kept) // world)}` or less, or more data",
        )
    if images:
        _, channels, height, width = spec.shape
        change, still = (transform(channels, height, width, flag) for flag in (node.AUGMENT, False))
    else:
        change = still = _as_it_is
    train = Transformed(Subset(whole, kept), change, seed, rank)
    validation = Transformed(Subset(whole, held), still, seed, -1)
    sampler: DistributedSampler[Any] = DistributedSampler(train, world, rank, shuffle=True, seed=seed)
    quiet: DistributedSampler[Any] = DistributedSampler(validation, world, rank, shuffle=False)
    options: dict[str, Any] = {
        "batch_size": node.BATCH,
        "num_workers": node.WORKERS,
        "pin_memory": pin,
    }
    if node.WORKERS:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, *(IMAGES if images else ())])
        options |= {
            "multiprocessing_context": context,
            "worker_init_fn": Started(os.getpid()),
            "persistent_workers": True,
        }
    return Data(
        name,
        DataLoader(train, sampler=Resumable(sampler), drop_last=True, generator=_seeded(seed), **options),
        DataLoader(validation, sampler=quiet, generator=_seeded(seed), **options),
        sampler,
        train,
        images and node.AUGMENT,
    )


class Resumable:
    """A sampler that skips its first `start` indices once: where an interrupted epoch goes on."""

    def __init__(self, sampler: DistributedSampler[Any]) -> None:
        self.sampler, self.start = sampler, 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        indices = list(self.sampler)
        start, self.start = self.start, 0
        return iter(indices[start:])


@dataclass(frozen=True)
class Started:
    """What a loader worker does first: seed numpy and random as torch seeded itself there, and end with the
    process `parent` that it loads for (torch watches the fork server, which outlives its workers)."""

    parent: int

    def __call__(self, _worker: int) -> None:
        number = torch.initial_seed() % 2**32
        np.random.seed(number)
        random.seed(number)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(1.0)
            try:
                os.kill(self.parent, 0)
            except ProcessLookupError:
                os._exit(1)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _as_it_is(value: Any) -> Any:
    return value
