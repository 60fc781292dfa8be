"""A GPU for machines without one: what is asked of torch.cuda is written down, tensors stay on the CPU.

`FakeGpu` stands in for torch.cuda while it is entered: every tensor that is asked for on a CUDA device is
made on the CPU and counted as the card's. Events read the host's clock. What it shows is which calls the
program makes, in which order and on which device, and that its control flow ends; no number means anything.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map


@dataclass(frozen=True)
class Card:
    """What a card says of itself. `mig`: it is a slice of a card. The cache is small: a CPU clears it."""

    name: str
    capability: tuple[int, int]
    l2: int = 2**16
    memory: int = 80 * 2**30
    mig: bool = False


H100 = Card("NVIDIA H100 80GB HBM3", (9, 0))
A100 = Card("NVIDIA A100-SXM4-80GB", (8, 0))
T4 = Card("Tesla T4", (7, 5), memory=16 * 2**30)
SLICE = Card("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0), memory=10 * 2**30, mig=True)
CARDS = {"h100": H100, "a100": A100, "t4": T4, "slice": SLICE}


class Event:
    """Recorded at the host's time."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.timed = enable_timing

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        assert self.timed
        assert end.timed
        return max(1e3 * (end.at - self.at), 1e-6)


class Graph:
    """Runs nothing when it is replayed."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


def _leaves(value: Any) -> Iterator[Any]:
    """What is in nested tuples, lists and dictionaries. torch's own function takes most of the time."""
    if isinstance(value, (tuple, list)):
        for inner in value:
            yield from _leaves(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    else:
        yield value


class FakeGpu(TorchFunctionMode):
    """`asked` holds each call with the device that it was for; `held` the bytes of live tensors by device."""

    kind = "cuda"

    def __init__(self, card: Card = H100, cards: int = 1) -> None:
        super().__init__()
        self.card, self.cards = card, cards
        self.current = 0
        self.asked: list[tuple[str, Any]] = []
        self.held = [0] * cards
        self.most = [0] * cards
        self.joules = 0.0
        self._storages: dict[int, Any] = {}

    def patches(self) -> list[Any]:
        patches = [
            mock.patch.object(torch.cuda, name, getattr(self, name), create=True)
            for name in (*_ANSWERS, *_CALLS)
        ]
        others = {"Event": Event, "CUDAGraph": Graph, "is_initialized": lambda: False}
        patches += [mock.patch.object(torch.cuda, name, value) for name, value in others.items()]
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            if hasattr(torch.optim.Optimizer, name):  # asks the driver
                patches.append(mock.patch.object(torch.optim.Optimizer, name))
        if hasattr(torch.backends.cuda, "cublas_workspace_size"):
            sizes = {"cublas_workspace_size": 32 * 2**20, "cublaslt_workspace_size": 2**20}
            patches += [
                mock.patch.object(torch.backends.cuda, name, return_value=size)
                for name, size in sizes.items()
            ]
        return patches

    def __enter__(self) -> Any:
        self._patches = self.patches()
        for patch in self._patches:
            patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for patch in self._patches:
            patch.stop()

    # Tensors.

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        place: list[int] = []

        def here(leaf: Any) -> Any:
            index = self._index(leaf)
            if index is None:
                return leaf
            place.append(index)
            return "cpu" if isinstance(leaf, str) else torch.device("cpu")

        kwargs = kwargs or {}
        if any(self._index(leaf) is not None for leaf in _leaves((args, kwargs))):
            args, kwargs = tree_map(here, (args, kwargs))
        result = func(*args, **kwargs)
        for leaf in _leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                self._hold(leaf, place[0] if place else self.current)
        return result

    def _index(self, leaf: Any) -> int | None:
        """The number of the card that a string or device names."""
        if not isinstance(leaf, (str, torch.device)) or not str(leaf).startswith(self.kind):
            return None
        number = str(leaf).partition(":")[2]
        return int(number) if number else self.current

    def _hold(self, tensor: Tensor, index: int) -> None:
        storage = tensor.untyped_storage()
        if id(storage) in self._storages:
            return
        nbytes = storage.nbytes()

        def freed(_: Any, key: int = id(storage)) -> None:
            self._storages.pop(key, None)
            self.held[index] -= nbytes

        self._storages[id(storage)] = weakref.ref(storage, freed)
        self.held[index] += nbytes
        self.most[index] = max(self.most[index], self.held[index])

    # What torch.cuda answers.

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return self.cards

    def current_device(self) -> int:
        return self.current

    def get_device_name(self, device: Any = None) -> str:
        return self.card.name

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        return self.card.capability

    def get_device_properties(self, device: Any = None) -> Any:
        major, minor = self.card.capability
        return SimpleNamespace(
            name=self.card.name, L2_cache_size=self.card.l2, total_memory=self.card.memory, uuid="fake",
            major=major, minor=minor, multi_processor_count=1,
        )  # fmt: skip

    def is_bf16_supported(self, *_: Any, **__: Any) -> bool:
        return self.card.capability >= (8, 0)

    def memory_allocated(self, device: Any = None) -> int:
        return self.held[self._number(device)]

    def memory_reserved(self, device: Any = None) -> int:
        return self.held[self._number(device)]

    def max_memory_allocated(self, device: Any = None) -> int:
        return self.most[self._number(device)]

    def max_memory_reserved(self, device: Any = None) -> int:
        return self.most[self._number(device)]

    def _number(self, device: Any) -> int:
        return device if isinstance(device, int) else self._index(device) or 0 if device else self.current

    # What is asked of torch.cuda.

    def set_device(self, device: Any) -> None:
        self.current = self._number(device)
        self.asked.append(("set_device", self.current))

    def synchronize(self, device: Any = None) -> None:
        self.asked.append(("synchronize", self._number(device)))

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        index = self._number(device)
        self.most[index] = self.held[index]

    def empty_cache(self) -> None:
        self.asked.append(("empty_cache", self.current))

    def current_stream(self, device: Any = None) -> Any:
        return ("stream", self._number(device))

    @contextmanager
    def device(self, device: Any) -> Iterator[None]:
        outer, self.current = self.current, self._number(device)
        try:
            yield
        finally:
            self.current = outer

    def graph_pool_handle(self) -> Any:
        self.asked.append(("graph_pool_handle", self.current))
        return ("pool", len(self.asked))

    def graph(self, graph: Graph, pool: Any = None, **_: Any) -> Any:
        self.asked.append(("graph", (self.current, pool)))
        return nullcontext()

    def make_graphed_callables(self, call: Any, sample: Any, **options: Any) -> Any:
        assert isinstance(call, nn.Module)
        assert all(isinstance(value, Tensor) for value in sample)
        self.asked.append(("make_graphed_callables", (self.current, options)))
        return call


class FakeAccelerator(FakeGpu):
    """Another kind of device, as torch.accelerator tells of it: xpu, mps."""

    def __init__(self, kind: str) -> None:
        super().__init__(Card(f"a fake {kind}", (0, 0)))
        self.kind = kind

    def patches(self) -> list[Any]:
        memory = [name for name in (*_ANSWERS, *_CALLS) if "memory" in name or name == "empty_cache"]
        answers = {name: getattr(self, name) for name in (*memory, "synchronize")}
        answers |= {
            "is_available": lambda: True,
            "current_accelerator": lambda: SimpleNamespace(type=self.kind),
        }
        if not hasattr(torch.accelerator, "max_memory_allocated"):  # an older torch counts none
            answers = {name: answer for name, answer in answers.items() if name not in memory}
        patches = [mock.patch.object(torch.accelerator, *pair) for pair in answers.items()]
        return [*patches, mock.patch.object(torch.xpu, "get_device_name", self.get_device_name)]


_ANSWERS = (
    "is_available", "device_count", "current_device", "get_device_name", "get_device_capability",
    "get_device_properties", "is_bf16_supported", "memory_allocated", "memory_reserved",
    "max_memory_allocated", "max_memory_reserved",
)  # fmt: skip
_CALLS = (
    "set_device", "synchronize", "reset_peak_memory_stats", "empty_cache", "current_stream", "device",
    "graph_pool_handle", "graph", "make_graphed_callables",
)  # fmt: skip


@dataclass
class Nvml:
    """nvidia-ml-py for one card: 100 watts since it was made. `asked` counts the questions."""

    card: Card = H100
    start: float = field(default_factory=time.perf_counter)
    asked: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        def answer(*_: Any) -> Any:
            self.asked.append(name)
            return {
                "nvmlDeviceGetHandleByUUID": "handle",
                "nvmlDeviceGetPowerUsage": 100_000,
                "nvmlDeviceGetClockInfo": 1_500,
                "nvmlDeviceGetTemperature": 40,
                "nvmlSystemGetDriverVersion": "1.2.3",
                "nvmlDeviceGetTotalEnergyConsumption": round(1e5 * (time.perf_counter() - self.start)),
                "nvmlDeviceIsMigDeviceHandle": self.card.mig,
                "nvmlDeviceGetMigMode": (int(self.card.mig), int(self.card.mig)),
                "nvmlDeviceGetCurrentClocksEventReasons": 0,
            }.get(name)

        return answer


@contextmanager
def a_gpu(card: Card = H100, cards: int = 1) -> Iterator[FakeGpu]:
    """A fake card with its driver."""
    driver, energy = (
        mock.patch(f"{_ROOM}._library", return_value=Nvml(card)),
        mock.patch(f"{_ROOM}.ENERGY_SECONDS", 0.05),
    )
    with FakeGpu(card, cards) as gpu, driver, energy:
        yield gpu


_ROOM = "inspector.benchmarking.gpu"
