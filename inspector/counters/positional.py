"""Inputs for counters that call the model by position only."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.models import Subject
from inspector.tracing._torch import tree_leaves


def positional(subject: Subject) -> tuple[Any, ...]:
    """The inputs with keyword ones put where the forward's signature has them."""
    if not subject.kwargs:
        return subject.args
    bound = inspect.signature(subject.model.forward).bind(*subject.args, **subject.kwargs)
    names = list(bound.signature.parameters)
    last = max(names.index(name) for name in bound.arguments)
    bound.apply_defaults()
    taken = [bound.signature.parameters[name] for name in names[: last + 1]]
    if any(p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in taken):
        raise InspectError("this counter passes inputs by position, and the forward takes them by name only")
    return tuple(bound.arguments[p.name] for p in taken)


def flatten_outputs(model: nn.Module) -> None:
    """Let the model return a tuple of tensors: a dataclass or a cache cannot be traced."""

    def flat(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, (Tensor, list, tuple)) and not hasattr(output, "_fields"):
            return output
        return tuple(leaf for leaf in tree_leaves(_plain(output)) if isinstance(leaf, Tensor))

    model.register_forward_hook(flat)


def _plain(output: Any) -> Any:
    return dict(output) if hasattr(output, "keys") else getattr(output, "__dict__", output)
