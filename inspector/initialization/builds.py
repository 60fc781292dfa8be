"""Three builds of one model, to see whether the seed decides its values."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inspector.initialization.writes import EMPTY, written


@dataclass(frozen=True)
class Builds:
    """Two builds with `seed`, as a digest of each tensor (`first`, `again`), and one with seed + 1, of which
    `fixed` holds the tensors that are the same. `origins` says where values come from (see `writes`),
    `never` names parameters that nothing was seen to fill. `meta`: there were no values to compare."""

    seed: int
    first: Mapping[str, bytes]
    again: Mapping[str, bytes]
    fixed: Mapping[str, Tensor]
    origins: Mapping[str, frozenset[str]]
    never: list[str]
    meta: bool = False


def builds(build: Callable[[int], nn.Module], seed: int) -> Builds:
    """Call `build`, which seeds the generators itself, as models.build does (torch, Python, NumPy)."""
    first = written(lambda: build(seed))
    tensors = dict(state(first.result))
    if any(tensor.device.type == "meta" for tensor in tensors.values()):
        return Builds(seed, {}, {}, {}, {}, [], meta=True)
    origins = {name: first.origins(tensor) for name, tensor in tensors.items()}
    digests = {name: _digest(tensor) for name, tensor in tensors.items()}
    parameters = dict(first.result.named_parameters(remove_duplicate=False))
    never = [name for name in parameters if EMPTY in origins.get(name, ())]
    del first, tensors, parameters  # one model at a time
    again = {name: _digest(tensor) for name, tensor in state(written(lambda: build(seed)).result)}
    other = dict(state(written(lambda: build(seed + 1)).result))
    fixed = {name: tensor for name, tensor in other.items() if digests.get(name) == _digest(tensor)}
    return Builds(seed, digests, again, fixed, origins, never)


def state(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all their names, except those without values yet."""
    lazy = nn.parameter.UninitializedParameter, nn.parameter.UninitializedBuffer
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            if not isinstance(tensor, lazy):
                yield name, tensor


def _elements(tensor: Tensor) -> Any:
    """The elements as NumPy records of raw bytes: NaN equals itself, bfloat16 needs no type."""
    plain = tensor.detach().cpu()
    plain = plain.to_dense() if plain.layout is not torch.strided else plain
    plain = (plain.int_repr() if plain.is_quantized else plain).resolve_conj().resolve_neg().contiguous()
    raw = plain.reshape(-1).view(torch.uint8).numpy()
    return raw.view(np.dtype((np.void, plain.element_size())))


def _digest(tensor: Tensor) -> bytes:
    """A hash of dtype, shape and bytes."""
    content = hashlib.blake2b(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), digest_size=16)
    content.update(memoryview(_elements(tensor).view(np.uint8)))
    return content.digest()


def distinct(tensor: Tensor) -> int:
    """How many different values a tensor holds."""
    return len(np.unique(_elements(tensor))) if tensor.numel() else 0
