"""The caches of keys, values and states of transformers: made, grown, and measured in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError, first_line
from inspector.tracing.subclass import parts
from inspector.tracing.values import tensors

DYNAMIC, STATIC = "dynamic", "static"
QUANTISED: dict[str, dict[str, Any]] = {
    "fp8": {"backend": "fp8"},
    "int4": {"backend": "quanto", "nbits": 4},
    "int2": {"backend": "quanto", "nbits": 2},
}
"""transformers' QuantizedCache by its backend; groups are its own defaults."""
CACHES = (DYNAMIC, STATIC, *QUANTISED)
_CANNOT = (TypeError, ValueError, AttributeError, NotImplementedError, KeyError, ImportError)


def static(model: nn.Module, length: int, name: str) -> Any:
    """A cache as long as `length` from the start. Raises InspectError for a model that has none."""
    import transformers

    try:
        return transformers.StaticCache(config=model.config, max_cache_len=length)
    except _CANNOT as error:
        raise InspectError(f"{name} has no static cache: {error}", 'use `kv_cache="dynamic"`') from error


def quantised(model: nn.Module, kind: str, name: str) -> Any:
    """An empty cache in fewer bits. Raises InspectError for a model that has none, and without the package
    that its backend needs."""
    from transformers import cache_utils

    try:
        return cache_utils.QuantizedCache(config=model.config, **QUANTISED[kind])
    except _CANNOT as error:
        text = f"{name} has no cache in {kind}: {first_line(error)}"
        raise InspectError(text, 'use `kv_cache="dynamic"`, or install what it names') from error


def filled(empty: Any, like: Any, count: int, make: Make) -> Any:
    """The quantised cache `empty` after a prompt of `count` tokens, each layer told at once: it keeps those
    in fewer bits, and the next ones as they are until a group of them is full. `like` is a cache of the same
    model that grows."""
    with torch.no_grad():
        for layer, other in zip(empty.layers, like.layers):
            layer.update(make(other.keys, count, -2), make(other.values, count, -2))
    return empty


Make = Callable[[Tensor, int, int], Tensor]


def values(device: str, seed: int) -> Make:
    """Makes a tensor like another with `count` entries in dimension `dim`."""
    generator = torch.Generator().manual_seed(seed)

    def make(like: Tensor, count: int, dim: int) -> Tensor:
        shape = list(like.shape)
        shape[dim] = count
        if device == "meta":
            return torch.empty(shape, dtype=like.dtype, device="meta")
        return torch.randn(shape, generator=generator).to(like.dtype).to(like.device)

    return make


def grow(cache: Any, count: int, make: Make) -> None:
    """Tell each layer that keeps something of every token of `count` more."""
    if count < 1:
        return
    with torch.no_grad():
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if isinstance(keys, Tensor) and isinstance(values, Tensor):
                layer.update(make(keys, count, -2), make(values, count, -2))
                _compact(layer)
            indexer = getattr(layer, "indexer_keys", None)
            if isinstance(indexer, Tensor):
                layer.update_indexer(make(indexer, count, 1))


def _compact(layer: Any) -> None:
    """A window is a view of all that it was cut from, until a few steps later: as it is then."""
    for name in ("keys", "values"):
        tensor = getattr(layer, name)
        if tensor.untyped_storage().nbytes() > tensor.numel() * tensor.dtype.itemsize:
            setattr(layer, name, tensor.clone())


def nbytes(cache: Any) -> int:
    """Bytes of the keys, values and states; counters of positions are none of them."""
    return sum(part.numel() * part.dtype.itemsize for tensor in _held(cache) for part in parts(tensor))


def _held(cache: Any) -> Iterator[Tensor]:
    seen: set[int] = set()
    for layer in cache.layers:
        for tensor in tensors(vars(layer)):
            kept = tensor.dim() > 1 or tensor.is_floating_point()
            if kept and id(tensor) not in seen:
                seen.add(id(tensor))
                yield tensor
