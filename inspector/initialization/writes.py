"""A record of who initialised what: every fill of a tensor while some code runs.

A dispatch mode sees each operator with the very tensors it gets, whichever Python function called it,
also through `.data`, views and `out=`; the Python stack at that moment tells which function that was.
What it cannot see are values from outside torch: `torch.from_numpy`, lists, files. A tensor that
holds such values has the origin "foreign".
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from inspector.tracing import _torch
from inspector.tracing._torch import TorchDispatchMode, tree_leaves

RANDOM, FOREIGN, EMPTY = "random", "foreign", "empty"
"""Origins: drawn by a torch generator; from outside torch; allocated and not written."""

_TORCH = os.path.dirname(torch.__file__) + os.sep
_INIT = os.path.join(_TORCH, "nn", "init.py")
_LAYERS = tuple(os.path.join(_TORCH, "nn", folder) + os.sep for folder in ("modules", "utils"))
_MODULE = os.path.join(_TORCH, "nn", "modules", "module.py")
_OWN = os.path.abspath(__file__)
_FILLS = {"aten::zero_", "aten::fill_", "aten::copy_"}
"""Operators that overwrite their target without being random; `out=` forms do so too."""
_SHAPED = ("aten::empty", "aten::new_", "aten::zeros", "aten::ones", "aten::full")
"""Beginnings of operators whose result takes a shape from an input, but no values."""
_SCOPES = ("__init__", "reset_parameters", "_reset_parameters")


@dataclass(frozen=True)
class Write:
    """One fill of `start:stop` of a storage, in elements.

    `explicit` is False inside the layers of torch.nn, which initialise themselves. Fills of one call
    of an initialiser share a `group`. `scope` is the innermost constructor (or reset_parameters) of
    a module that was running, 0 outside: a component's own code against the code that uses it.
    `layout` is the shape and stride of a target with gaps, None when the range has none.
    """

    initialiser: str
    where: str
    random: bool
    explicit: bool
    group: int
    scope: int
    start: int
    stop: int
    layout: Any = None


@dataclass
class _Record:
    """What is known of one storage. The weak reference keeps its address from being reused."""

    ref: StorageWeakRef
    origins: set[str] = field(default_factory=set)
    ancestors: set[int] = field(default_factory=set)
    writes: list[Write] = field(default_factory=list)


@dataclass(frozen=True)
class Writes:
    """What was filled during one call of `run`, and what that returned."""

    result: Any
    records: dict[int, _Record]

    def of(self, tensor: Tensor) -> tuple[Write, ...]:
        """The fills of a tensor's storage, oldest first; ties share them."""
        record = self._find(tensor)
        return tuple(record.writes) if record else ()

    def origins(self, tensor: Tensor) -> frozenset[str]:
        """Where its values come from: any of RANDOM, FOREIGN, EMPTY; none for arithmetic of constants."""
        record = self._find(tensor)
        return frozenset(record.origins) if record else frozenset({FOREIGN})

    def _find(self, tensor: Tensor) -> _Record | None:
        return self.records.get(storage_of(tensor) or 0)


def written(run: Callable[[], object]) -> Writes:
    """Call `run` and record every fill of every tensor; the values are the same as without."""
    frame = sys._getframe()
    mode = _Recording(frame)
    try:
        with mode:
            result = run()
    finally:
        mode.forget_frames()
    return Writes(result, mode.records)


def storage_of(tensor: Tensor) -> int | None:
    """The identity of a tensor's memory, which no later one takes over while a record holds its weak
    reference; None where it has none of its own (sparse, wrappers)."""
    if isinstance(tensor, (nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer)):
        return None
    try:
        return int(StorageWeakRef(tensor.untyped_storage()).cdata)
    except (NotImplementedError, RuntimeError):
        return None


class _Recording(TorchDispatchMode):
    def __init__(self, base: FrameType) -> None:
        super().__init__()
        self.records: dict[int, _Record] = {}
        self._authors = _Authors(base)

    def forget_frames(self) -> None:
        """Let go of the stack: frames keep every local variable alive."""
        self._authors = _Authors(None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        targets, sources, whole = _split(func, args, kwargs)
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        if targets:
            fills = seeded or whole or _name(func) in _FILLS
            for target in targets:
                self._change(func, target, sources, seeded, fills)
        else:
            self._produce(func, out, sources, seeded)
        return out

    def _produce(self, func: Any, out: Any, sources: list[Tensor], seeded: bool) -> None:
        """Note new storages; a result that shares its input's storage is a view."""
        records = [self._record(source) for source in sources]
        inputs = {storage_of(source) for source in sources}
        name = _name(func)
        for tensor in _tensors(out):
            key = storage_of(tensor)
            if key is None or key in inputs:
                continue
            record = self.records[key] = _Record(StorageWeakRef(tensor.untyped_storage()))
            if seeded:
                record.origins.add(RANDOM)
            elif name.startswith(("aten::empty", "aten::new_empty")):
                record.origins.add(EMPTY)
            elif not name.startswith(_SHAPED) and not name.endswith("_like"):
                _inherit(record, records, inputs)

    def _change(self, func: Any, target: Tensor, sources: list[Tensor], seeded: bool, fills: bool) -> None:
        record, records = self._record(target), [self._record(source) for source in sources]
        if record is None:
            return
        key = storage_of(target)
        derived = any(other is not None and key in other.ancestors for other in records)
        random = seeded or any(other is not None and RANDOM in other.origins for other in records)
        record.origins.discard(EMPTY)
        if fills and not derived:  # values made from the target's own are a change of it
            start, stop, layout = _region(target)
            if layout is None and stop - start == target.untyped_storage().nbytes() // target.element_size():
                record.origins.clear()
                record.ancestors.clear()
            author = self._authors.now(f"Tensor.{_name(func).partition('::')[2]}")
            _append(record.writes, replace(author, random=random, start=start, stop=stop, layout=layout))
        if seeded:
            record.origins.add(RANDOM)
        _inherit(record, records, {storage_of(source) for source in sources})

    def _record(self, tensor: Tensor) -> _Record | None:
        """What is known of a tensor's storage. One that no operator made came from outside; a single
        number does so harmlessly."""
        key = storage_of(tensor)
        if key is None:
            return None
        if key not in self.records:
            record = self.records[key] = _Record(StorageWeakRef(tensor.untyped_storage()))
            if tensor.numel() > 1:
                record.origins.add(FOREIGN)
        return self.records[key]


def _inherit(record: _Record, sources: list[_Record | None], keys: set[int | None]) -> None:
    """Values computed from `sources` carry their origins."""
    for source in sources:
        if source is not None:
            record.origins |= source.origins - {EMPTY}
            record.ancestors |= source.ancestors
    record.ancestors |= {key for key in keys if key is not None}


def _split(func: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[list[Tensor], list[Tensor], bool]:
    """The tensors that an operator writes, those it reads, and whether it is an `out=` form."""
    targets: list[Tensor] = []
    sources: list[Tensor] = []
    whole = False
    for position, argument in enumerate(_torch.schema_of(func).arguments):
        value = args[position] if position < len(args) else kwargs.get(argument.name)
        writes = argument.alias_info is not None and argument.alias_info.is_write
        (targets if writes else sources).extend(_tensors(value))
        whole |= writes and argument.kwarg_only
    return targets, sources, whole


def _name(func: Any) -> str:
    """The operator's name without its overload: aten::add_."""
    return func.name().partition(".")[0]


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _region(tensor: Tensor) -> tuple[int, int, Any]:
    """First and last+1 element of the storage, and the layout where elements between are left out."""
    start, count = int(tensor.storage_offset()), tensor.numel()
    reach = 1 + sum((int(size) - 1) * int(step) for size, step in zip(tensor.shape, tensor.stride()))
    if count == 0 or reach == count:
        return start, start + count, None
    return start, start + reach, (tuple(tensor.shape), tensor.stride())


def _append(writes: list[Write], new: Write) -> None:
    """Add a fill. The parts of one call, and the rows that a loop fills in order, become one."""
    last = writes[-1] if writes else None
    if last is None or last.layout is not None or new.layout is not None:
        writes.append(new)
    elif last.group == new.group and last.start <= new.start and new.stop <= last.stop:
        writes[-1] = replace(last, random=last.random or new.random)
    elif last.stop == new.start and (last.where, last.scope) == (new.where, new.scope):
        writes[-1] = replace(last, stop=new.stop, random=last.random or new.random)
    else:
        writes.append(new)


class _Authors:
    """Reads from the Python stack who is writing."""

    def __init__(self, base: FrameType | None) -> None:
        self._base = base
        self._group = 0
        self._call: FrameType | None = None  # held, so that no other frame can take its identity
        self._scopes: dict[tuple[int, CodeType], int] = {}
        self._modules: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()

    def now(self, operator: str) -> Write:
        """The author of the operator that is running, as a Write without its range."""
        call, owner = self._call_and_owner(sys._getframe(1))
        if call is None or call is not self._call:
            self._group += 1
        self._call = call
        return Write(
            initialiser=call.f_code.co_name if call else operator,
            where=_place(owner) if owner else "",
            random=False,
            explicit=owner is None or not owner.f_code.co_filename.startswith(_LAYERS),
            group=self._group,
            scope=self._scope(owner),
            start=0,
            stop=0,
        )

    def _call_and_owner(self, frame: FrameType | None) -> tuple[FrameType | None, FrameType | None]:
        """The outermost initialising function, and the first function around it that only uses it."""
        call = None
        while frame is not None and frame is not self._base:
            if _initialises(frame.f_code):
                call = frame
            elif not _is_plumbing(frame.f_code):
                return call, frame
            frame = frame.f_back
        return call, None

    def _scope(self, frame: FrameType | None) -> int:
        while frame is not None and frame is not self._base:
            code = frame.f_code
            if code.co_name in _SCOPES and code.co_argcount:
                module = frame.f_locals.get(code.co_varnames[0])
                if isinstance(module, nn.Module):
                    number = self._modules.setdefault(module, len(self._modules) + 1)
                    return self._scopes.setdefault((number, code), len(self._scopes) + 1)
            frame = frame.f_back
        return 0


def _initialises(code: CodeType) -> bool:
    """Whether a function fills a tensor: torch.nn.init, or by torch's convention `name_`."""
    return code.co_filename == _INIT or (code.co_name.endswith("_") and not code.co_name.endswith("__"))


def _is_plumbing(code: CodeType) -> bool:
    """Code of torch between the initialiser and who called it: decorators, overrides, Module.apply."""
    file = code.co_filename
    return file in (_OWN, _MODULE) or (file.startswith(_TORCH) and not file.startswith(_LAYERS))


def _place(frame: FrameType) -> str:
    return f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno} in {frame.f_code.co_name}"
