"""The registry of formulas: what a formula returns, and how an operator finds its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from inspector.tracing.record import TensorSpec


class Cost(NamedTuple):
    """`macs` of the contraction, `pointwise` FLOPs of everything else, `activations` in elements.

    `activations` are the output elements of a contraction, attention unfolded; 0 for the rest.
    """

    macs: int = 0
    pointwise: int = 0
    activations: int = 0


FREE = Cost()

Formula = Callable[..., "Cost | None"]
_Function = TypeVar("_Function", bound=Formula)

REGISTRY: dict[str, Formula] = {}


def formula(*names: str) -> Callable[[_Function], _Function]:
    """Register a formula for operators, by name without overload ("aten.mm", "mylib::my_op")."""

    def register(function: _Function) -> _Function:
        for name in names:
            REGISTRY[name.replace("::", ".")] = function
        return function

    return register


def find(name: str) -> Formula | None:
    """The formula for an operator name, or of its out-of-place form."""
    return REGISTRY.get(name) or REGISTRY.get(name.removesuffix("_"))


def cost(name: str, outputs: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Cost | None:
    """The cost of one operator call, or None when no formula knows it.

    A formula that does not fit the call (another version's signature) knows nothing about it.
    """
    function = find(name)
    if function is None:
        return None
    try:
        result = function(outputs, *args, **kwargs)
    except (TypeError, ValueError, IndexError, KeyError, StopIteration):
        return None
    if result is not None and result.macs and first(outputs).dtype.startswith("complex"):
        return result._replace(macs=4 * result.macs)
    return result


def first(outputs: Any) -> TensorSpec:
    """The first output tensor of an operator."""
    while not isinstance(outputs, TensorSpec):
        outputs = next(entry for entry in outputs if entry is not None)
    return outputs


def numel(tensors: Any) -> int:
    """Elements in a tensor, or in all tensors of a nested list."""
    if isinstance(tensors, TensorSpec):
        return tensors.numel
    if isinstance(tensors, (list, tuple)):
        return sum(numel(entry) for entry in tensors)
    return 0
