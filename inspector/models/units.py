"""The parts of a model that FSDP2 gathers one after the other."""

from __future__ import annotations

from torch import nn

from inspector.core.naming import select


def units(model: nn.Module, globs: tuple[str, ...] = ()) -> list[str]:
    """The modules whose parameters are gathered together, the inner ones first; the rest of the model is one
    more. Without `globs`: the outermost entries of lists and sequences that hold parameters, as users wrap
    the blocks of a transformer; where there are none, the children of the model."""
    holding = [
        path for path, module in model.named_modules() if path and next(module.parameters(), None) is not None
    ]
    if globs:
        return sorted(select(holding, globs, "module", "wrap"), key=lambda path: -path.count("."))
    listed = [path for path in holding if path.rpartition(".")[2].isdigit()]
    outermost = [p for p in listed if not any(p.startswith(f"{other}.") for other in listed)]
    return outermost or [path for path in holding if "." not in path]
