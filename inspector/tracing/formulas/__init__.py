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

from importlib import import_module
from pkgutil import iter_modules

from inspector.tracing.formulas.registry import REGISTRY, Cost, cost, find, formula

__all__ = ["REGISTRY", "Cost", "cost", "find", "formula"]

for _module in iter_modules(__path__):  # each file registers its formulas
    import_module(f"{__name__}.{_module.name}")
