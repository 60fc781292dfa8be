"""What an operator costs, from the shapes of its inputs and outputs.

Each formula is a small function, registered under the operator's name without overload:

    @formula("aten.mm")
    def mm(out, a, b):
        ...

It receives the operator's outputs first (one `TensorSpec`, or a tuple of them), then its own
arguments, with a `TensorSpec` in place of every tensor, and returns a `Cost`. The in-place form
(`aten.mul_`) shares the formula of `aten.mul`.

The numbers are theoretical: what the operator's definition does on dense data, each multiply-add
counted once. They are not kernel instructions, and do not shrink with sparsity or masks. Zero
padding counts as data (torchvision, fvcore and timm publish with the same convention). A complex
multiply-accumulate of a matrix product is four real ones; a complex convolution arrives here as the
three real ones that torch splits it into.

An operator that no formula knows costs None, never 0.
"""

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
    found = REGISTRY.get(name)
    if found is None and name.endswith("_"):
        found = REGISTRY.get(name[:-1])
    return found


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


from inspector.tracing.formulas import (  # noqa: E402, F401
    attention,
    contractions,
    free,
    norms,
    ordering,
    pointwise,
    quantized,
    recurrence,
    sampling,
)
