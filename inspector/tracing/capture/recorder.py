"""The one pass: a dispatch mode that notes every operator, and who asked for it.

Four facts meet here, each from its own source:
- the operator and its tensors: `__torch_dispatch__`, below autograd, once per operator;
- the module: `module_calls`;
- the torch function that the model called: a function mode;
- the module of a backward operator: autograd numbers its nodes in the order of the forward, so the
  number of the running node tells which forward operator, hence which module, made it.
"""

from __future__ import annotations

import weakref
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inspector.tracing._torch import (
    DispatchMode,
    NestedTensor,
    next_sequence_number,
    running_node,
    sequence_number_of,
)
from inspector.tracing.capture import recurrent
from inspector.tracing.capture.flexible import on_any_device
from inspector.tracing.capture.foreign import NOTE, NUMPY, leaving
from inspector.tracing.capture.functions import ATTENTION, Functions, attention_seen
from inspector.tracing.capture.higher_order import BODIES
from inspector.tracing.capture.isolate import uncompiled
from inspector.tracing.capture.kernels import aside
from inspector.tracing.capture.known import keep, run
from inspector.tracing.capture.masks import Masks
from inspector.tracing.capture.memo import MetaMemo
from inspector.tracing.capture.mismatch import Mismatch, mismatch
from inspector.tracing.capture.modules import ModuleCall, Places, module_calls
from inspector.tracing.capture.pricing import Call, Operator, Rule, price
from inspector.tracing.capture.rules import ON_META
from inspector.tracing.capture.written_out import PARTS, WrittenOut
from inspector.tracing.describe import DTYPES, describe
from inspector.tracing.formulas.traffic import tensors
from inspector.tracing.record import ACCUMULATION, Failure, NestedSpec, Op, Storage, TensorSpec, WrappedSpec
from inspector.tracing.subclass import PLAIN, parts, wraps


class _StorageRef(weakref.ref):
    """A weak reference to a storage that knows its place in the record."""

    __slots__ = ("index", "key")
    index: int
    key: int


class Recorder(DispatchMode):
    """Records operators, storages and module calls inside `recording()`.

    `places` has the path of each module, or all of them. `rules` replaces the result of an operator, by
    name, where `device` cannot compute it (data-dependent shapes); a rule that returns
    NotImplemented lets the operator run.
    """

    supports_higher_order_operators = True
    _result = run

    def __init__(self, places: Places, device: str, rules: Mapping[str, Rule] | None = None) -> None:
        super().__init__()
        self.places = places
        self.device = device
        self.rules = {**(ON_META if device == "meta" else {}), **(rules or {})}
        self.raw: list[Call] = []
        self.storages: list[list[Any]] = []
        self.kept: dict[int, tuple[Tensor, int]] = {}
        self.renewed: dict[int, tuple[Tensor, int]] = {}
        self.runs: list[list[Any]] = []
        self.failure: Failure | None = None
        self.wrong: Mismatch | None = None
        self.notes: dict[str, None] = {}
        self.shares: dict[Any, float | str] = {}
        self.phase, self.trains = "forward", False
        self.path, self._run = "", -1
        self.group = ""
        self.density: float | None = 1.0
        self._callers: list[tuple[str, int]] = []
        self._live: dict[int, int] = {}
        self._devices: list[str] = []
        self._references: list[_StorageRef] = []
        self._memo = MetaMemo(device)
        self._operators: dict[Any, Operator] = {}
        self._owners: dict[int, str] = {}
        self._boundaries: list[int] = []
        self._origins: list[tuple[str, str, float | None]] = []
        self._marked: list[int] = []
        self.masks = Masks(self)
        self._written_out = WrittenOut(self)
        self._backward_start = self._node_start = 0
        self._node: int | None = None

    def begin_backward(self) -> None:
        """What is recorded from here on is the backward."""
        self.phase, self._backward_start = "backward", len(self.raw)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record everything that this thread runs inside."""
        modules = module_calls(self.places, self._enter, self._leave, self._asking)
        functions = attention_seen(self), uncompiled(), on_any_device(), recurrent.repeatable(self.named)
        with ExitStack() as stack:
            for context in (*functions, modules, leaving(self._left), self, Functions(self)):
                stack.enter_context(context)
            yield

    def _enter(self, call: ModuleCall) -> None:
        self._callers.append((self.path, self._run))
        self.runs.append([call.path, self._run, len(self.raw), -1])
        self.path, self._run = call.path, len(self.runs) - 1

    def _leave(self, call: ModuleCall) -> None:
        if call.error is not None and self.failure is None:  # the innermost module ends first
            inputs = tuple(map(describe, (*call.args, *call.kwargs.values())))
            kind, error = type(call.module).__name__, call.error
            self.failure = Failure(call.path, kind, inputs, type(error).__name__, str(error))
            self.wrong = mismatch(call.module, (*call.args, *call.kwargs.values()), str(error))
        self._mark()
        self.runs[self._run][3] = len(self.raw)
        self.path, self._run = self._callers.pop()

    def _asking(self) -> str:
        """Who calls a module while none runs: in the backward, whose node runs."""
        return self._origin()[0] if self.phase == "backward" else ""

    @contextmanager
    def named(self, group: str) -> Iterator[None]:
        """Call what runs inside `group`."""
        outer, self.group = self.group, group
        try:
            yield
        finally:
            self.group = outer

    @contextmanager
    def leaving(self, share: float | None) -> Iterator[None]:
        """A mask leaves this share of the scores of what runs inside; None where nobody can know."""
        outer, self.density = self.density, share
        try:
            yield
        finally:
            self.density = outer

    # Storages.

    def hold(self, tensor: Tensor, role: str, module: str = "") -> None:
        """Note a tensor that exists already, its role, and the module that holds it."""
        spec = self._spec(tensor, role, len(self.raw) or None)
        for part in spec.parts if isinstance(spec, WrappedSpec) else (spec,):
            if part.storage >= 0:
                entry = self.storages[part.storage]
                entry[2] = role if entry[2] == "intermediate" else entry[2]
                entry[5] = entry[5] or module
                entry[1] = "meta" if (role, self.device) == ("input", "meta") else entry[1]  # with values too
                if role == "parameter" and part.storage != spec.storage:
                    entry[2] = "packing"

    def own(self, parameter: Tensor, path: str) -> None:
        """Attribute the accumulation of this parameter's gradient to the module at `path`."""
        self._owners.setdefault(id(parameter), path)

    def spec(self, tensor: Tensor) -> TensorSpec:
        """Where a tensor stands in the record."""
        return self._spec(tensor, "constant", None)

    def _spec(self, tensor: Tensor, role: str, birth: int | None) -> TensorSpec:
        if type(tensor) not in PLAIN and wraps(tensor):
            return self._wrapped(tensor, role, birth)
        try:
            storage, shape = tensor.untyped_storage(), tuple(tensor.shape)
        except (NotImplementedError, RuntimeError):  # sparse ones have none, nested ones no shape
            return self._wrapped(tensor, role, birth)
        key = id(storage)
        index = self._live.get(key)
        if index is None:
            index = len(self.storages)
            self._devices.append(device := storage.device.type)
            self.storages.append([storage.nbytes(), device, role, birth, None, ""])
            if device == "cpu" and role != "intermediate":
                keep(self, storage, index)
            reference = _StorageRef(storage, self._died)
            reference.index, reference.key = index, key
            self._live[key] = index
            self._references.append(reference)
        return TensorSpec(shape, DTYPES[tensor.dtype], index, int(tensor.storage_offset()))

    def _wrapped(self, tensor: Tensor, role: str, birth: int | None) -> TensorSpec:
        """A tensor that is kept as others: the memory is theirs."""
        inner = tensor.unbind() if tensor.is_nested else parts(tensor)
        if any(part is tensor for part in inner):  # opaque
            return TensorSpec(tuple(tensor.shape), DTYPES[tensor.dtype])
        specs = tuple(self._spec(part, role, birth) for part in inner)
        if tensor.is_nested:
            return NestedSpec.holding(specs, DTYPES[tensor.dtype])
        return WrappedSpec.of(tuple(tensor.shape), DTYPES[tensor.dtype], specs)

    def _died(self, reference: Any) -> None:
        self._live.pop(reference.key, None)
        self.storages[reference.index][4] = len(self.raw) - 1

    # Operators.

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if types and NestedTensor in types:  # it takes itself apart, and its parts come here
            return NotImplemented
        kwargs = kwargs or {}
        operator = self._operators.get(func) or self._operator(func)
        if operator.composite:
            with self:
                result = operator.parts(*args, **kwargs)
            if result is not NotImplemented:
                return result
        key: list[Any] = [func]
        shadow = [self._shadow(value, key) for value in args]
        named = {}
        for name, value in kwargs.items():
            key.append(name)
            named[name] = self._shadow(value, key)
        index, storages_before = len(self.raw), len(self.storages)
        signature = tuple(key)
        result = self._memo.recall(signature, operator, args)
        if result is NotImplemented and operator.rule is not None:
            result = operator.rule(*args, **kwargs)
        if result is NotImplemented:
            result = self._result(func, operator, args, kwargs)
            made = self._made(result, index)
            self._memo.learn(signature, operator, args, result, tensors(made), storages_before)
        else:
            made = self._made(result, index)
        path, group, density = self.path, self.group, self.density
        if self.phase == "backward" and not self._callers:
            path, group, density = self._origin()
            if operator.name == "aten.add" and self._accumulates(shadow):
                group = ACCUMULATION
        self.raw.append(Call(operator, path, group, self.phase, shadow, named, made, signature, density))
        if self._callers:
            self._mark()
            if operator.attends and group != ATTENTION:
                self._written_out.see(index)
        return result

    def _operator(self, func: Any) -> Operator:
        operator = Operator(func, self.rules)
        if operator.name in BODIES:
            operator.composite, operator.parts = True, partial(BODIES[operator.name], self, func)
        operator.attends = operator.name in PARTS
        self._operators[func] = operator
        return operator

    def note(self, func: Any, args: Sequence[Any], run: Callable[[], Any]) -> Any:
        """Record `func` on `args` as one operator. `run` makes its result; nothing is recorded of that."""
        operator, key = Operator(func, self.rules), [object()]
        shadow, index = [self._shadow(value, key) for value in args], len(self.raw)
        with aside():
            result = run()
        made = self._made(result, index)
        origin = self.path, self.group, self.density
        if self.phase == "backward" and not self._callers:
            origin = self._origin()
        self.raw.append(Call(operator, *origin[:2], self.phase, shadow, {}, made, tuple(key), origin[2]))
        if self._callers:
            self._mark()
        return result

    @contextmanager
    def rehearsal(self) -> Iterator[Recorder]:
        """A recorder of its own for what runs inside, of which this one notes nothing."""
        runs, probe = len(self.runs), Recorder({}, self.device, self.rules)
        try:
            with aside(), probe:
                yield probe
        finally:
            del self.runs[runs:]

    def rehearse(self, function: Any, operands: Any) -> tuple[int, int]:
        """MACs and FLOPs of the forward of a function that then may or may not run."""
        with torch.no_grad(), self.rehearsal() as probe:
            function(*operands)
        macs, pointwise = probe.work() or (0, 0)
        return macs, 2 * macs + pointwise

    def work(self, start: int = 0, end: int | None = None) -> tuple[int, int] | None:
        """MACs and pointwise FLOPs of the operators from `start` to `end`; None where one is unknown."""
        ops = self.ops()[start:end]
        if not all(op.known for op in ops):
            return None
        return sum(op.macs or 0 for op in ops), sum(op.pointwise_flops or 0 for op in ops)

    def _left(self, tensor: Tensor) -> None:
        """A tensor went to numpy: what happens to it there is one unknown operator."""
        self.notes[NOTE] = None
        path, group, _ = (self.path, self.group, 1.0) if self._callers else self._origin()
        args = [self._shadow(tensor, [])]
        self.raw.append(Call(Operator(NUMPY, {}), path, group, self.phase, args, {}, None, NUMPY))

    def _shadow(self, value: Any, key: list[Any]) -> Any:
        """The argument with a `TensorSpec` in place of each tensor; what shapes depend on joins key."""
        if isinstance(value, Tensor):
            spec = self._spec(value, "constant", None)
            if isinstance(spec, WrappedSpec):
                key.append(object())  # what is inside decides: no two calls look alike
            elif spec.storage >= 0:
                key += spec.shape, spec.dtype, value.stride(), self._devices[spec.storage]
            else:
                key += spec.shape, spec.dtype
            return spec
        if isinstance(value, (list, tuple)):
            key.append(len(value))
            return [self._shadow(entry, key) for entry in value]
        if isinstance(value, torch.ScriptObject):
            key.append(object())  # stride and padding hide inside: no two calls look alike
            return self._packed_weight(value)
        key += type(value), value
        return value

    def _made(self, result: Any, index: int) -> Any:
        if isinstance(result, Tensor):
            return self._spec(result, "intermediate", index)
        if isinstance(result, (list, tuple)):
            return [self._made(entry, index) for entry in result]
        return result

    def _packed_weight(self, value: Any) -> Any:
        """The weight inside a quantized module's packed parameters."""
        for method in ("weight", "unpack"):
            try:
                packed = getattr(value, method)()
            except Exception:
                continue
            weight = packed[0] if isinstance(packed, (list, tuple)) else packed
            return TensorSpec(tuple(weight.shape), DTYPES[weight.dtype])
        return value

    # Backward: which module does a node of the graph belong to?

    def _mark(self) -> None:
        """Nodes numbered below the current number were made here or before."""
        if not self.trains:
            return
        number = next_sequence_number()
        if not self._boundaries or number > self._boundaries[-1]:
            self._boundaries.append(number)
            self._origins.append((self.path, self.group, self.density))
            self._marked.append(len(self.raw))

    def masked(self, index: int, share: float | None) -> None:
        """A mask leaves this share of the scores of call `index`, also in its gradient."""
        self.raw[index] = self.raw[index]._replace(density=share)
        position = bisect_left(self._marked, index + 1)
        if self._marked[position : position + 1] == [index + 1]:
            self._origins[position] = (*self._origins[position][:2], share)

    def _origin(self) -> tuple[str, str, float | None]:
        node = running_node()
        if node is None:
            return "", "", 1.0
        variable = getattr(node, "variable", None)
        number = sequence_number_of(node)() if variable is None else -id(variable)
        if number != self._node:  # the node itself must not be kept: it holds tensors
            self._node, self._node_start = number, len(self.raw)
        if variable is not None:
            return self._owners.get(id(variable), ""), "", 1.0
        position = bisect_right(self._boundaries, number)
        return self._origins[position] if position < len(self._origins) else ("", "", 1.0)

    def _accumulates(self, args: list[Any]) -> bool:
        """Whether an addition joins two gradients of one tensor: the engine adds the output of a node to
        that of an earlier node. (It still reports the node that ran last as the running one.)"""
        first = args[0]
        if not isinstance(first, TensorSpec) or first.storage < 0:
            return False
        birth = self.storages[first.storage][3]
        return birth is not None and self._backward_start <= birth < self._node_start

    # The result.

    @property
    def calls(self) -> Mapping[str, int]:
        return Counter(path for path, *_ in self.runs)

    def ops(self) -> tuple[Op, ...]:
        """The recorded operators with their costs."""
        return price(self.raw, [entry[0] for entry in self.storages])

    def lifetimes(self) -> tuple[Storage, ...]:
        """The storages seen, with birth and death."""
        return tuple(Storage(*entry) for entry in self.storages)
