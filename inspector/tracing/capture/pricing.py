"""From the calls that the recorder noted to operators with their costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from inspector.tracing import _torch
from inspector.tracing.formulas import cost, find
from inspector.tracing.formulas.traffic import held, tensors, traffic
from inspector.tracing.record import NestedSpec, Op, TensorSpec, WrappedSpec

Rule = Callable[..., Any]
_Price = tuple[int | None, int | None, int]


class Operator:
    """What is fixed for one operator: its name, what it writes in place, whether it is composite, and the
    function that then runs it in its parts; whether its result is a view of its first argument; whether it
    may be part of an attention written out by hand."""

    __slots__ = (
        "attends", "composite", "in_place", "name", "parts", "rule", "view", "written", "written_names",
    )  # fmt: skip

    def __init__(self, func: Any, rules: Mapping[str, Rule]) -> None:
        self.written: tuple[int, ...] = ()
        self.written_names: tuple[str, ...] = ()
        self.attends = self.composite = self.view = False
        self.parts: Any = None
        if not hasattr(func, "overloadpacket"):  # a higher-order operator, or the name of what is none
            self.name = func if isinstance(func, str) else f"higher_order.{func}"
            self.in_place: bool | None = None
        else:
            schema = _torch.schema_of(func)
            self.name = schema.name.replace("::", ".")
            arguments = schema.arguments
            changed = [a.alias_info is not None and a.alias_info.is_write for a in arguments]
            self.written = tuple(i for i, yes in enumerate(changed) if yes)
            self.written_names = tuple(a.name for a, yes in zip(arguments, changed) if yes)
            has_kernel = func.has_kernel_for_dispatch_key
            self.composite = has_kernel("CompositeImplicitAutograd") and not has_kernel("Autograd")
            self.parts = func.decompose
            self.in_place = self.written == (0,) and len(schema.returns) == 1
            self.view = not self.written and _shares(schema)
            reshapes = torch.Tag.inplace_view in func.tags  # transpose_, squeeze_: shapes change in place
            if reshapes or (
                not self.in_place and (self.written or any(r.alias_info for r in schema.returns))
            ):
                self.in_place = None  # a view, or several results: always run
        self.rule = rules.get(self.name)


def _shares(schema: Any) -> bool:
    """Whether an operator returns one tensor, in the memory of its first argument."""
    if len(schema.returns) != 1 or str(schema.returns[0].type) != "Tensor":
        return False
    return schema.returns[0].alias_info is not None or schema.name == "aten::_unsafe_view"


class Call(NamedTuple):
    """One operator call as it was noted: tensors in `args`, `kwargs` and `result` are `TensorSpec`.

    `signature` holds everything that the results' shapes depend on.
    """

    operator: Operator
    path: str
    group: str
    phase: str
    args: list[Any]
    kwargs: dict[str, Any]
    result: Any
    signature: Any
    density: float | None = 1.0


def price(calls: Sequence[Call], sizes: Sequence[int]) -> tuple[Op, ...]:
    """The operators of `calls`; `sizes` are the bytes of each storage."""
    prices: dict[Any, _Price] = {}

    def size(spec: TensorSpec) -> int:
        """An expanded tensor holds no more than its storage."""
        own = spec.storage < 0 or isinstance(spec, WrappedSpec)
        return spec.nbytes if own else min(spec.nbytes, sizes[spec.storage])

    return tuple(_priced(call, prices, size) for call in calls)


def _priced(call: Call, prices: dict[Any, _Price], size: Callable[[TensorSpec], int]) -> Op:
    operator, args, kwargs = call.operator, call.args, call.kwargs
    inputs, outputs, written = tensors(args), tensors(call.result), []
    if operator.written:
        written = [spec for i in operator.written if i < len(args) for spec in tensors(args[i])]
    if kwargs:
        inputs += tensors(kwargs)
        written += [s for n in operator.written_names for s in tensors(kwargs.get(n))]
        kwargs = {n: v for n, v in kwargs.items() if n not in operator.written_names}
    read, wrote = traffic(operator.name, args, inputs, outputs, written, size)
    view = outputs and not (read or wrote) and find(operator.name) is None
    idle = inputs and not outputs and not any(spec.numel for spec in inputs)  # nothing of nothing
    macs, pointwise, activations = (0, 0, 0) if view or idle else _price(call, kwargs, prices)
    return Op(
        name=operator.name,
        group=call.group,
        module=call.path,
        phase=call.phase,
        inputs=held(inputs),
        outputs=held(outputs),
        macs=macs,
        pointwise_flops=pointwise,
        activations=activations if call.phase == "forward" else 0,
        bytes_read=read,
        bytes_written=wrote,
        density=call.density if macs else 1.0,
    )


def _price(call: Call, kwargs: dict[str, Any], prices: dict[Any, _Price]) -> _Price:
    """The cost, worked out once for calls that look the same."""
    try:
        price = prices.get(call.signature)
    except TypeError:  # an argument that cannot be hashed
        price = None
    if price is None:
        price = _cost(call.operator.name, call.result, tuple(call.args), kwargs)
        try:
            prices[call.signature] = price
        except TypeError:
            pass
    return price


def _cost(name: str, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Price:
    """The formula's cost; on nested tensors the sum of what each of their components costs."""
    nested = [spec for spec in (*tensors(args), *tensors(result)) if isinstance(spec, NestedSpec)]
    if not nested:
        return cost(name, result, args, kwargs) or (None, None, 0)
    count = min(len(spec.components) for spec in nested)
    prices = [cost(name, _part(result, i), _part(args, i), kwargs) for i in range(count)]
    if any(price is None or None in price for price in prices):
        return None, None, 0
    macs, pointwise, activations = (sum(column) for column in zip(*prices)) if prices else (0, 0, 0)
    return macs, pointwise, activations


def _part(value: Any, index: int) -> Any:
    """The component of each nested tensor in a value."""
    if isinstance(value, NestedSpec):
        return value.components[index]
    if isinstance(value, (list, tuple)) and not isinstance(value, TensorSpec):
        return type(value)(_part(entry, index) for entry in value)
    return value
