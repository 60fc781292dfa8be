"""Weights that are computed from other parameters: weight norm, spectral norm, and parametrizations.

The law of a weight-normalised layer is that of the product g v / |v|: the scheme speaks of the weight
that the layer uses. A spectral norm divides the weight by its largest singular value at every call, so
the scheme can only speak of the tensor before the division.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from inspector.tracing._torch import SpectralNorm, parameters_of, pre_hooks_of


def names(module: nn.Module) -> list[str]:
    """The tensors a module owns, under the names that it uses itself: `weight`, not `weight_g`."""
    own = [name for name, tensor in parameters_of(module).items() if tensor is not None]
    derived: list[str] = []
    for name in list(own):
        stem = name.removesuffix("_v").removesuffix("_orig")
        if stem != name and (_old_norm(module, stem) or name == f"{stem}_orig"):
            derived.append(stem)
            own = [n for n in own if n not in (f"{stem}_g", f"{stem}_v", f"{stem}_orig")]
    if parametrize.is_parametrized(module):
        derived += list(_parametrizations(module))
    return [*derived, *own]


def source(module: nn.Module, name: str) -> Tensor:
    """The parameter that holds the values: for a computed weight, the largest one it comes from."""
    for key in (name, f"{name}_v", f"{name}_orig"):
        tensor = parameters_of(module).get(key)
        if tensor is not None:
            return tensor
    return max(_originals(_parametrizations(module)[name]), key=Tensor.numel)


def values(module: nn.Module, name: str) -> Tensor:
    """The tensor that the scheme's law is about (see the head of this file)."""
    with torch.no_grad():
        hook = _old_norm(module, name)
        if hook is not None:
            return hook.compute_weight(module)  # the attribute is stale until the next forward
        if name in parameters_of(module) or _is_spectral(module, name):
            return source(module, name)
        return getattr(module, name)


def assign(module: nn.Module, name: str, fill: Any) -> None:
    """Let `fill` write the values of a tensor: in place where it is a parameter, else through the
    inverse of what computes it."""
    with torch.no_grad():
        hook = _old_norm(module, name)
        if hook is not None:
            direction = source(module, name)
            fill(direction)
            length = parameters_of(module)[f"{name}_g"]
            assert length is not None
            length.copy_(torch.norm_except_dim(direction, 2, hook.dim))
            setattr(module, name, hook.compute_weight(module))
        elif name in parameters_of(module) or f"{name}_orig" in parameters_of(module):
            fill(source(module, name))
        else:
            drawn = torch.empty_like(getattr(module, name))
            fill(drawn)
            setattr(module, name, drawn)


def note(module: nn.Module | None, name: str) -> str:
    """What a reader must know of a computed weight, or nothing."""
    if module is None or name in parameters_of(module):
        return ""
    if _old_norm(module, name) is not None:
        return "weight norm: the product g v / |v| is checked"
    if _is_spectral(module, name):
        return "spectral norm: the weight before the division is checked"
    steps = ", ".join(type(step).__name__ for step in _parametrizations(module)[name])
    return f"parametrized by {steps}: the weight that the layer uses is checked"


def written(module: nn.Module, name: str) -> list[Tensor]:
    """The parameters that `assign` writes."""
    if name in parameters_of(module):
        return [source(module, name)]
    parts = [parameters_of(module).get(f"{name}_{end}") for end in ("v", "g", "orig")]
    return [part for part in parts if part is not None] or _originals(_parametrizations(module)[name])


def _is_spectral(module: nn.Module, name: str) -> bool:
    """Whether a weight is divided by its largest singular value, in the old way or the new one."""
    if f"{name}_orig" in parameters_of(module):
        return True
    return any(isinstance(step, SpectralNorm) for step in _parametrizations(module)[name])


def _parametrizations(module: nn.Module) -> Any:
    return module.parametrizations


def _originals(chain: Any) -> list[Tensor]:
    return [tensor for tensor in parameters_of(chain).values() if tensor is not None]


def _old_norm(module: nn.Module, name: str) -> Any:
    """The hook of torch.nn.utils.weight_norm (deprecated, still common) on this tensor."""
    hooks = pre_hooks_of(module).values()
    return next((hook for hook in hooks if isinstance(hook, WeightNorm) and hook.name == name), None)
