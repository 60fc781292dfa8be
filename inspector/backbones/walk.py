"""What a forward pass tells about modules: when each ran, and at which resolution it left its output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from math import log, prod

from torch import nn

from inspector.tracing import _torch
from inspector.tracing.record import Op, TensorSpec, Trace

Resolution = tuple[int, ...]
CHANGE = 1.5
"""A step in the number of positions that counts as another resolution: halving one side gives 2 (video
may halve time alone), while a border that an unpadded convolution cuts off, or a class token, gives
less than 1.1."""

_MERGES = ("aten.add", "aten.add_", "aten.cat")


class Walk:
    """The modules of `model` in the order in which they ran in `trace`, or in the order of registration
    where there is none.

    Paths of one shared module are one: the first registered.
    """

    def __init__(self, model: nn.Module, trace: Trace | None) -> None:
        self.model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        self.device = trace.device if trace is not None else ""
        self.ops: tuple[Op, ...] = trace.ops if trace is not None else ()
        self.roles = [storage.role for storage in trace.storages] if trace is not None else []
        self.first: dict[str, int] = {}
        self.last: dict[str, int] = {}
        for index, op in enumerate(self.ops):
            for path in (op.module, *above(op.module)):
                if self.last.get(path) == index - 1 or path not in self.first:
                    self.first.setdefault(path, index)
                    self.last[path] = index  # of the first visit only: a relu may run many times

    @property
    def ran(self) -> bool:
        return bool(self.ops)

    def when(self, path: str) -> int | None:
        """The operator at which a module first runs; for a bare parameter, or a module whose parameters
        another one reads, that of the first read. None if neither happens."""
        if (canonical := self.canonical(path)) in self.first:
            return self.first[canonical]
        return min((self._reads[name] for name in self.inside(path) if name in self._reads), default=None)

    def canonical(self, path: str) -> str:
        """The first of the paths that a shared module has."""
        module = self.modules.get(path)
        return self._names[id(module)] if module is not None else path

    def inside(self, path: str) -> list[str]:
        """The names of the parameters at or below `path`."""
        below = f"{path}."
        return [name for name in self.parameters if not path or name == path or name.startswith(below)]

    def weight(self, path: str) -> int:
        """The number of parameters below `path`, each tensor once."""
        return sum(p.numel() for p in self.modules[path].parameters() if not _lazy(p))

    def leaves_at(self, path: str) -> Resolution | None:
        """The resolution of what the module returns, at its first call."""
        last = self.last.get(self.canonical(path))
        outputs = self.ops[last].outputs if last is not None else ()
        return self.resolution(outputs[0]) if outputs else None

    def enters_at(self, path: str) -> Resolution | None:
        """The resolution of the first activation that the module reads."""
        path = self.canonical(path)
        if path not in self.first:
            return None
        for op in self.ops[self.first[path] : self.last[path] + 1]:
            for spec in self._activations(op):
                if (resolution := self.resolution(spec)) is not None:
                    return resolution
        return None

    def resolution(self, spec: TensorSpec) -> Resolution | None:
        """The spatial part of a shape: NCHW, NHWC and their video forms by the sides that are closer to
        the image's proportions, else the tokens of [N, L, C], [L, 1, C] or the length of [N, C, L] from
        a convolution. None for a single position and for everything else."""
        shape = spec.shape
        if len(shape) in (4, 5) and all(shape):
            sides = min(shape[2:], shape[1:-1], key=lambda s: abs(log(s[-2] / s[-1]) - self._proportions))
        elif len(shape) == 3:
            length = shape[1] if shape[1] > 1 else shape[0]
            sides = (shape[2] if shape in self._sequences else length,)
        else:
            return None
        return sides if prod(sides) > 1 else None

    @cached_property
    def merging(self) -> set[type[nn.Module]]:
        """Classes that join two activations themselves: residual, dense and inception blocks."""
        return {
            type(self.modules[op.module])
            for op in self.ops
            if op.name in _MERGES
            and op.module in self.modules
            and len({spec.storage for spec in self._activations(op)}) > 1
        } - {nn.Sequential}

    def _activations(self, op: Op) -> list[TensorSpec]:
        return [spec for spec in op.inputs if spec.storage in self._data]

    @cached_property
    def _data(self) -> set[int]:
        """The storages that hold something computed from an input: no standardised weight, no mask."""
        derived = {index for index, role in enumerate(self.roles) if role == "input"}
        for op in self.ops:
            if any(spec.storage in derived for spec in op.inputs):
                derived.update(spec.storage for spec in op.outputs if spec.storage >= 0)
        return derived

    @cached_property
    def _proportions(self) -> float:
        """log(height / width) of the image: of the first tensor of four dimensions, NCHW."""
        shapes = (spec.shape for op in self.ops for spec in self._activations(op) if len(spec.shape) > 3)
        height, width = next(shapes, (1, 1))[-2:]
        return log(height / width) if height and width else 0.0

    @cached_property
    def _sequences(self) -> set[tuple[int, ...]]:
        """Shapes of three dimensions that are [N, C, L]: what convolutions return."""
        convolved = (op.outputs[0].shape for op in self.ops if op.name == "aten.convolution")
        return {shape for shape in convolved if len(shape) == 3}

    @cached_property
    def _reads(self) -> dict[str, int]:
        """For each parameter the first operator that reads it."""
        read: dict[int, int] = {}
        for index, op in enumerate(self.ops):
            for spec in op.inputs:
                read.setdefault(spec.storage, index)
        return {name: read[held] for name, held in self._held() if held in read}

    def _held(self) -> Iterator[tuple[str, int]]:
        """The storage of each parameter: a trace begins with those of the parameters and buffers, module
        by module, ties once."""
        indices: dict[int, int] = {}
        for module in self.model.modules():
            for tensor in (*_torch.parameters_of(module).values(), *_torch.buffers_of(module).values()):
                if tensor is not None:
                    indices.setdefault(id(tensor), len(indices))
        roles = self.roles[: len(indices)]
        if len(roles) < len(indices) or not set(roles) <= {"parameter", "packing", "buffer"}:
            return  # sparse or overlapping tensors: the count does not hold
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            yield name, indices[id(parameter)]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {id(module): path for path, module in self.model.named_modules()}


def above(path: str) -> Iterator[str]:
    """The parents of a path, up to the root ""."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def join(path: str, name: str) -> str:
    """The path of a child."""
    return f"{path}.{name}" if path else name


def inside(path: str, places: Iterable[str]) -> bool:
    """Whether a path is one of `places`, or lies in one of them ("" is the whole model)."""
    return any(path == place or path.startswith(f"{place}.") or place == "" for place in places)


def outermost(paths: Sequence[str]) -> tuple[str, ...]:
    """The paths that lie in no other of them."""
    return tuple(path for path in paths if not inside(path, (other for other in paths if other != path)))


def _lazy(parameter: nn.Parameter) -> bool:
    return isinstance(parameter, nn.parameter.UninitializedParameter)
