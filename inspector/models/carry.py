"""Functions that hang on a model, carried over to its copy.

`copy.deepcopy` takes a function as it is: a hook that is a closure over the model would then read and write
the original while the copy trains. Here such a function is made anew, with everything that it refers to
(closure, defaults, globals) replaced by the copy's own.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

BUDGET = 20_000
"""Objects that are looked through before the search for the model ends."""
DEPTH = 60
LARGE = 10_000
"""Longer containers are data, and not looked through."""
_ATOMS = (str, bytes, int, float, complex, type, ModuleType, torch.dtype, torch.device, type(None))
_PLAIN = (list, dict, set, bytearray)


class Carrier:
    """What a copy of one model needs to know. `memo` is that of `copy.deepcopy`; `place` gives the twin
    of a tensor that shares memory with the model, and None for others. `spoiled` tells why a function
    could not be made anew (by its id): something that it refers to cannot be copied."""

    def __init__(
        self, model: nn.Module, memo: dict[int, Any], place: Callable[[Tensor], Tensor | None]
    ) -> None:
        self.memo, self.place = memo, place
        self.owned = {id(module) for module in model.modules()} | set(memo)
        self.seen: dict[int, bool] = {}
        self.kept: list[Any] = []  # so that no id is used twice
        self.cells: dict[int, tuple[CellType, CellType]] = {}
        self.worlds: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.made: list[tuple[FunctionType, FunctionType]] = []
        self.filled = 0
        self.spoiled: dict[int, str] = {}

    def reaches(self, value: Any, depth: int = 0) -> bool:
        """Whether something of the model can be reached from `value`. Functions that can, and those with
        a state of their own, get a twin."""
        if id(value) in self.owned:
            return True
        if isinstance(value, _ATOMS) or depth > DEPTH or len(self.seen) > BUDGET:
            return False
        if id(value) not in self.seen:
            self.seen[id(value)] = False  # until it is known: a circle leads back here
            self.kept.append(value)
            self.seen[id(value)] = self._looked_through(value, depth)
        return self.seen[id(value)]

    def _looked_through(self, value: Any, depth: int) -> bool:
        if isinstance(value, Tensor):
            twin = self.place(value)
            if twin is not None:
                self.memo[id(value)] = twin
            return twin is not None
        reached = sum(self.reaches(inner, depth + 1) for inner in _inside(value)) > 0  # all: no short cut
        if isinstance(value, FunctionType) and (reached or value.__closure__):
            self._twin(value)
        return reached

    def _twin(self, function: FunctionType) -> None:
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        world = self._world(function)
        twin = FunctionType(function.__code__, world, function.__name__, None, cells or None)
        for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
            setattr(twin, name, getattr(function, name))
        self.memo[id(function)] = twin
        self.made.append((function, twin))

    def _cell(self, cell: CellType) -> CellType:
        """Functions that share a variable still do."""
        if id(cell) not in self.cells:
            self.cells[id(cell)] = (cell, CellType())
        return self.cells[id(cell)][1]

    def _world(self, function: FunctionType) -> dict[str, Any]:
        """The function's globals: the same, or where some of them reach the model, the module's copy."""
        names = [name for name, value in _globals(function) if self.reaches(value)]
        if not names:
            return function.__globals__
        key = id(function.__globals__)
        if key not in self.worlds:
            self.worlds[key] = (function.__globals__, dict(function.__globals__))
        return self.worlds[key][1]

    def fill(self) -> None:
        """Give the new functions what they refer to. Call it when the model has been copied."""
        while self.filled < len(self.made):
            function, twin = self.made[self.filled]
            self.filled += 1
            try:
                self._fill(function, twin)
            except Exception as error:
                self.spoiled[id(twin)] = f"{type(error).__name__}: {error}"

    def _fill(self, function: FunctionType, twin: FunctionType) -> None:
        for cell in function.__closure__ or ():
            new = self.cells[id(cell)][1]
            if _empty(new) and not _empty(cell):
                new.cell_contents = self.copied(cell.cell_contents)
        twin.__defaults__ = tuple(map(self.copied, function.__defaults__ or ())) or None
        defaults = {name: self.copied(value) for name, value in (function.__kwdefaults__ or {}).items()}
        twin.__kwdefaults__ = defaults or None
        twin.__dict__.update({name: self.copied(value) for name, value in vars(function).items()})
        world = twin.__globals__
        if world is not function.__globals__:
            for name, value in _globals(function):
                if self.reaches(value):
                    world[name] = self.copied(value)

    def copied(self, value: Any) -> Any:
        """The copy's own for what reaches the model; tensors, modules and plain containers are copied too,
        since they may be written to. Raises what copy.deepcopy raises for what reaches the model."""
        reached = self.reaches(value)
        if id(value) in self.memo:
            return self.memo[id(value)]
        if isinstance(value, weakref.ref):
            target = value()
            return weakref.ref(self.copied(target)) if target is not None and reached else value
        if not reached and not isinstance(value, (Tensor, nn.Module, *_PLAIN)):
            return value
        before = set(self.memo)
        try:
            return copy.deepcopy(value, self.memo)
        except Exception:
            for key in self.memo.keys() - before:  # halves of what could not be copied
                del self.memo[key]
            if reached:
                raise
            return value


def _empty(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False


def _inside(value: Any) -> Iterator[Any]:
    """What an object refers to."""
    if isinstance(value, FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if not _empty(cell))
        yield from (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        yield from (*vars(value).values(), *(entry for _, entry in _globals(value)))
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, weakref.ref):
        yield value()
    elif isinstance(value, torch.autograd.graph.Node):
        yield getattr(value, "variable", None)
    elif isinstance(value, Mapping):
        if len(value) <= LARGE:
            yield from (*value.keys(), *value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        if len(value) <= LARGE:
            yield from value
    else:
        yield from getattr(value, "__dict__", {}).values()


def _globals(function: FunctionType) -> list[tuple[str, Any]]:
    """The globals that a function names, also inside the functions that it makes. torch's own refer to no
    model."""
    if (function.__module__ or "").startswith("torch."):
        return []
    world = function.__globals__
    return [(name, world[name]) for name in sorted(_names(function.__code__)) if name in world]


def _names(code: CodeType) -> set[str]:
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return set(code.co_names).union(*map(_names, inner))
