"""Models that torch.ao quantises, built to be counted: shapes, dtypes and packed weights, without values.

Their kernels exist on the CPU only, so their tensors are there; but nothing writes them, and memory that
nobody touches takes none. The float model that is quantised is on meta, its calibration does not run, and the
scales are 1. QNNPACK packs a weight when it first runs; until then it keeps the tensor that it was given.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import MinMaxObserver, PerChannelMinMaxObserver, default_observer
from torch.nn.utils import fusion

from inspector.models.build import build
from inspector.tracing import _torch
from inspector.tracing.capture.pricing import Rule

_LAZY = "qnnpack"


def outline(construct: Callable[[], nn.Module]) -> nn.Module:
    """What `construct` builds and quantises, on the CPU. Raises whatever comes of values that it asks for."""

    def quantised() -> nn.Module:
        with _valueless():
            return construct()

    with warnings.catch_warnings():  # torch 2.15 says once that tensors of such dtypes will go
        warnings.filterwarnings("ignore", message=".*quantized tensor creation", category=UserWarning)
        model = build(quantised, "meta").to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.detach().fill_(1 if tensor.is_floating_point() else 0)
    return model


@contextmanager
def _valueless() -> Iterator[None]:
    """What computes values does not, in this thread: no module runs, observers have seen nothing, and what is
    quantised and packed has its shape and dtype alone."""
    thread, packing = threading.get_ident(), torch.ops.quantized

    def here(function: Any, original: Any) -> Callable[..., Any]:
        def either(*args: Any, **kwargs: Any) -> Any:
            return (function if threading.get_ident() == thread else original)(*args, **kwargs)

        return either

    replaced: list[tuple[Any, str, Any]] = [
        (nn.Module, "__call__", lambda module, *args, **kwargs: None),
        (type(default_observer), "__call__", _one_for_all()),
        (MinMaxObserver, "calculate_qparams", _unit),
        (PerChannelMinMaxObserver, "calculate_qparams", _unit),
        (fusion, "fuse_conv_bn_weights", _fused),
        (torch, "quantize_per_tensor", _quantised),
        (torch, "quantize_per_channel", _quantised),
        (packing, "conv2d_prepack", partial(_packed, packing.conv2d_prepack)),
        (packing, "linear_prepack", partial(_packed, packing.linear_prepack)),
    ]
    before = [getattr(owner, name) for owner, name, _ in replaced]
    try:
        for (owner, name, function), original in zip(replaced, before):
            setattr(owner, name, here(function, original))
        yield
    finally:
        for (owner, name, _), function in zip(replaced, before):
            setattr(owner, name, function)


def _one_for_all() -> Callable[..., Any]:
    """What makes an observer in a `QConfig`: one of each kind, as they have nothing of their own to see. The
    device, which a maker may work out from its module, is meta for all."""
    made: dict[str, Any] = {}

    def observer(maker: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(maker.p.func, type):
            return maker.p(*args, **kwargs)
        key = repr((maker.p, args, kwargs))
        if key not in made:
            made[key] = maker.p(*args, **kwargs)
        return made[key]

    return observer


def _unit(observer: Any) -> tuple[Tensor, Tensor]:
    return torch.ones(1, device="cpu"), torch.zeros(1, dtype=torch.int64, device="cpu")


def _fused(weight: nn.Parameter, bias: Any, mean: Tensor, *rest: Any, **_: Any) -> tuple[Tensor, Tensor]:
    """A convolution with the norm behind it has a bias for each channel."""
    return weight, nn.Parameter(mean)


def _quantised(x: Tensor, *rest: Any) -> Tensor:
    return _reserved(x.shape, rest[-1])


def _reserved(shape: Any, dtype: torch.dtype, scale: float = 1.0, zero_point: int = 0) -> Tensor:
    """A tensor that nobody has written, in the order of quantised kernels."""
    order = torch.channels_last if len(shape) == 4 else torch.contiguous_format
    made: Tensor = _torch.empty_quantized(
        tuple(shape), scale=scale, zero_point=zero_point, dtype=dtype, device="cpu", memory_format=order
    )
    return made


def _packed(pack: Any, weight: Tensor, bias: Tensor | None, *rest: Any) -> Any:
    """Packed by QNNPACK where that is there, which then keeps a weight in its order as it is."""
    if bias is not None and bias.device.type == "meta":
        bias = torch.empty(bias.shape, device="cpu")
    backend = torch.backends.quantized
    engine = backend.engine
    try:
        backend.engine = _LAZY if _LAZY in backend.supported_engines else engine
        return pack(_reserved(weight.shape, weight.dtype), bias, *rest)
    finally:
        backend.engine = engine


# What the kernels would return.


def conv2d(x: Tensor, packed: Any, scale: float, zero_point: int) -> Any:
    """Quantised convolutions return channels last, whatever they get. What they refuse is left to them."""
    if x.dim() != 4 or x.dtype is not torch.quint8 or packed.transpose():
        return NotImplemented
    weight = packed.unpack()[0]
    if x.shape[1] != weight.shape[1] * packed.groups():
        return NotImplemented
    geometry = zip(x.shape[2:], weight.shape[2:], packed.stride(), packed.padding(), packed.dilation())
    sizes = [(size + 2 * pad - step * (k - 1) - 1) // stride + 1 for size, k, stride, pad, step in geometry]
    shape = (x.shape[0], weight.shape[0], *sizes)
    return _reserved(shape, x.dtype, scale, zero_point) if min(shape) > 0 else NotImplemented


def alike(x: Tensor, *rest: Any, **_: Any) -> Any:
    """One value for each of `x`, in its order. Where that can be read in two ways, or a second tensor
    differs, the kernel decides."""
    other = rest[0] if rest and isinstance(rest[0], Tensor) else x
    same = (x.shape, x.stride(), x.dtype) == (other.shape, other.stride(), other.dtype) and x.is_quantized
    ordered = x.is_contiguous() != x.is_contiguous(memory_format=torch.channels_last)
    return torch.empty_like(x) if same and ordered else NotImplemented


RULES: dict[str, Rule] = {
    "quantized.conv2d": conv2d,
    "quantized.conv2d_relu": conv2d,
    "quantized.add": alike,
    "quantized.add_relu": alike,
    "quantized.hardswish": alike,
}
