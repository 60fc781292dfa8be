"""Scatters that accumulate, sorting and search, Fourier transforms, fake quantisation."""

from __future__ import annotations

from math import ceil, log2, prod
from typing import Any

from inspector.tracing.formulas.registry import Cost, first, formula
from inspector.tracing.record import TensorSpec

# Accumulating scatters: one addition for each element that is added.


@formula("aten.index_add", "aten.index_reduce")
def index_add(
    out: Any, x: TensorSpec, dim: int, index: TensorSpec, source: TensorSpec, *_: Any, **__: Any
) -> Cost:
    return Cost(0, source.numel)


@formula("aten.scatter_add", "aten.scatter_reduce")
def scatter_add(out: Any, x: TensorSpec, dim: int, index: TensorSpec, *_: Any, **__: Any) -> Cost:
    """The source may be larger than the index, which tells what is added."""
    return Cost(0, index.numel)


@formula("flex_lib.zeros_and_scatter")
def zeros_and_scatter(out: Any, shape: Any, indices: Any, values: TensorSpec) -> Cost:
    """The gradient of a tensor that a score function indexes: each value is added at its place."""
    return Cost(0, values.numel)


@formula("aten.index_put", "aten._index_put_impl", "aten._unsafe_index_put")
def index_put(
    out: Any, x: TensorSpec, indices: Any, values: TensorSpec, accumulate: bool = False, *_: Any
) -> Cost:
    return Cost(0, values.numel if accumulate else 0)


_MEAN, _MAX = 1, 2
"""How a bag is reduced; 0 is its sum."""


@formula("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(out: Any, weight: TensorSpec, indices: TensorSpec, *args: Any, **_: Any) -> Cost:
    """A row is added (or compared) for each index, after a multiplication where it has a weight of its own; a
    mean divides each bag. Arguments: offsets, scale_grad_by_freq, mode, sparse, per_sample_weights."""
    _offsets, _scaled, mode, _sparse, own = (*args, *(None, False, 0, False, None)[len(args) :])[:5]
    rows = indices.numel * weight.shape[-1]
    return Cost(0, rows * (1 + (own is not None)) + (out[0].numel if mode == _MEAN else 0))


@formula("aten._embedding_bag_backward")
def embedding_bag_backward(out: Any, grad: TensorSpec, indices: TensorSpec, *args: Any, **_: Any) -> Cost:
    """A bag e is the sum of s_i W[i] over its indices i, so dL/dW[i] grows by s_i dL/de for each of them: one
    row of additions an index. s_i is 1, the weight of i or scaled by its
    frequency (a row of multiplications), or one over the size of the bag (each bag is divided). Of a maximum,
    each element of dL/de goes to one row. Arguments: offsets, offset2bag, bag_size, maximum_indices,
    num_weights, scale_grad_by_freq, mode, sparse, per_sample_weights."""
    scaled, mode, _sparse, own = args[5:9]
    if mode == _MAX:
        return Cost(0, grad.numel)
    times = 1 + bool(scaled) + (own is not None)
    return Cost(0, indices.numel * grad.shape[-1] * times + (grad.numel if mode == _MEAN else 0))


@formula("aten._embedding_bag_per_sample_weights_backward")
def embedding_bag_weights_backward(
    out: Any, grad: TensorSpec, weight: TensorSpec, indices: TensorSpec, *_: Any
) -> Cost:
    """dL/ds_i = W[i] . dL/de: a multiplication and an addition for each element of each row."""
    return Cost(0, 2 * indices.numel * weight.shape[-1])


# Order.


@formula("aten.sort", "aten.argsort")
def sort(out: Any, x: TensorSpec, *args: Any, dim: int = -1, **_: Any) -> Cost:
    """n log2 n comparisons for each row of n along `dim`."""
    dim = next((a for a in args if isinstance(a, int) and not isinstance(a, bool)), dim)
    return _sorted(x, x.shape[dim] if x.shape else 1)


@formula("aten.msort", "aten.unique_dim")
def sort_first(out: Any, x: TensorSpec, dim: int = 0, *_: Any, **__: Any) -> Cost:
    return _sorted(x, x.shape[dim] if x.shape else 1)


@formula("aten._unique2")
def unique(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Sorts all elements."""
    return _sorted(x, x.numel)


@formula("aten.unique_consecutive")
def unique_consecutive(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Compares each element with the one before."""
    return Cost(0, x.numel)


def _sorted(x: TensorSpec, n: int) -> Cost:
    return Cost(0, x.numel * ceil(log2(n)) if n > 1 else 0)


@formula("aten.bucketize")
def bucketize(out: Any, x: Any, boundaries: TensorSpec, *_: Any, **__: Any) -> Cost:
    """A binary search for each element: log2(n + 1) comparisons to tell n + 1 places apart."""
    return Cost(0, first(out).numel * ceil(log2(boundaries.numel + 1)))


@formula("aten.searchsorted")
def searchsorted(out: Any, rows: TensorSpec, x: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, first(out).numel * ceil(log2(rows.shape[-1] + 1)))


@formula("aten.topk")
def topk(out: Any, x: TensorSpec, k: int, *_: Any, **__: Any) -> Cost:
    """A heap of k: n log2 k comparisons."""
    return Cost(0, x.numel * max(ceil(log2(k)), 1) if k else 0)


# Fourier transforms: 5 N log2 N for a complex one of N points, half of it for real data.


def _fft(points: TensorSpec, dims: Any, flops: float) -> Cost:
    n = prod(points.shape[d] for d in dims)
    batch = points.numel // n if n else 0
    return Cost(0, round(flops * batch * n * log2(n)) if n > 1 else 0)


@formula("aten._fft_c2c")
def fft_c2c(out: Any, x: TensorSpec, dims: Any, *_: Any, **__: Any) -> Cost:
    return _fft(x, dims, 5)


@formula("aten._fft_r2c")
def fft_r2c(out: Any, x: TensorSpec, dims: Any, *_: Any, **__: Any) -> Cost:
    return _fft(x, dims, 2.5)


@formula("aten._fft_c2r")
def fft_c2r(out: Any, x: TensorSpec, dims: Any, *_: Any, **__: Any) -> Cost:
    return _fft(first(out), dims, 2.5)


# Fake quantisation: scale, round, shift, clamp (2), shift, scale.


@formula(
    "aten.fake_quantize_per_tensor_affine_cachemask",
    "aten.fake_quantize_per_channel_affine_cachemask",
    "aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
)
def fake_quantize(out: Any, x: TensorSpec, *_: Any) -> Cost:
    return Cost(0, 7 * x.numel)
