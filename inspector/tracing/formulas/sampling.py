"""Pooling, regions of interest, interpolation and grid sampling."""

from __future__ import annotations

from functools import partial
from math import ceil, log2, prod
from typing import Any

from inspector.tracing.formulas.pointwise import SAMPLE_FLOPS
from inspector.tracing.formulas.registry import Cost, first, formula
from inspector.tracing.record import TensorSpec

# Pooling: each output compares or adds the elements of its window.


def _pool(dims: int, out: Any, x: TensorSpec, kernel: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, first(out).numel * _window(kernel, dims))


def _pool_backward(
    dims: int, out: Any, grad: TensorSpec, x: TensorSpec, kernel: Any, *_: Any, **__: Any
) -> Cost:
    """Averages are spread again: one addition for each element of each window."""
    return Cost(0, grad.numel * _window(kernel, dims))


def _window(kernel: Any, dims: int) -> int:
    """Elements of a window; a kernel of one number has the same size in all dimensions."""
    sizes = [kernel] if isinstance(kernel, int) else list(kernel)
    return prod(sizes) if len(sizes) == dims else sizes[0] ** dims


def _adaptive_pool(dims: int, out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, _adaptive(x, first(out), dims))


def _adaptive_pool_backward(dims: int, out: Any, grad: TensorSpec, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, _adaptive(x, grad, dims))


def _adaptive(x: TensorSpec, y: TensorSpec, dims: int) -> int:
    """Window i of n over length L runs from floor(i L / n) to ceil((i + 1) L / n)."""
    total = prod(y.shape[:-dims])
    for length, n in zip(x.shape[-dims:], y.shape[-dims:]):
        total *= sum(-(-(i + 1) * length // n) - i * length // n for i in range(n))
    return total


for _dims in (1, 2, 3):
    formula(f"aten.avg_pool{_dims}d")(partial(_pool, _dims))
    formula(f"aten.adaptive_avg_pool{_dims}d")(partial(_adaptive_pool, _dims))
for _dims in (2, 3):
    formula(f"aten.max_pool{_dims}d_with_indices")(partial(_pool, _dims))
    formula(f"aten.avg_pool{_dims}d_backward")(partial(_pool_backward, _dims))
    formula(f"aten.adaptive_max_pool{_dims}d")(partial(_adaptive_pool, _dims))
    formula(f"aten._adaptive_avg_pool{_dims}d")(partial(_adaptive_pool, _dims))
    formula(f"aten._adaptive_avg_pool{_dims}d_backward")(partial(_adaptive_pool_backward, _dims))
formula("aten.quantized_max_pool1d")(partial(_pool, 1))
formula("aten.max_pool2d", "aten.quantized_max_pool2d", "quantized.max_pool2d")(partial(_pool, 2))
formula("aten.mkldnn_adaptive_avg_pool2d")(partial(_adaptive_pool, 2))


@formula("torchvision.roi_align")
def roi_align(
    out: Any, x: TensorSpec, rois: TensorSpec, scale: float, height: int, width: int, ratio: int, *_: Any
) -> Cost | None:
    """ratio x ratio bilinear samples, averaged, for each output. Without a ratio the number of samples
    adapts to the box's size, which the shapes do not tell: unknown."""
    if ratio <= 0 and first(out).numel:
        return None
    return Cost(0, first(out).numel * ratio**2 * (SAMPLE_FLOPS["bilinear"] + 1))


@formula("torchvision._roi_align_backward")
def roi_align_backward(
    out: Any, grad: TensorSpec, rois: TensorSpec, scale: float, height: int, width: int, *rest: Any
) -> Cost | None:
    """rest: batch, channels, height and width of the input, ratio, aligned."""
    ratio = rest[4]
    if ratio <= 0 and grad.numel:
        return None
    return Cost(0, grad.numel * ratio**2 * (SAMPLE_FLOPS["bilinear"] + 1))


@formula("torchvision.nms")
def nms(out: Any, boxes: TensorSpec, *_: Any) -> Cost:
    """All pairs of boxes, worst case: intersection (4 min or max, 2 subtract, 2 clamp, 1 multiply),
    union (2), quotient and comparison. The boxes are sorted first."""
    n = boxes.shape[0]
    return Cost(0, 13 * (n * (n - 1) // 2) + n * ceil(log2(n)) if n > 1 else 0)


# Interpolation and sampling.


def _sampler(kind: str, out: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, SAMPLE_FLOPS[kind] * first(out).numel)


def _sampler_backward(kind: str, out: Any, grad: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Each tap takes its weight times the gradient, and an addition."""
    taps = (SAMPLE_FLOPS[kind] + 1) // 2
    return Cost(0, 2 * taps * grad.numel)


_SAMPLERS = {
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
}
for _name, _kind in _SAMPLERS.items():
    formula(f"aten.{_name}")(partial(_sampler, _kind))
    formula(f"aten.{_name}_backward")(partial(_sampler_backward, _kind))


def _antialiased(x: TensorSpec, y: TensorSpec, reach: int) -> tuple[int, int]:
    """Taps of the two separable passes, along the width and then along the height.

    A window holds 2 * ceil(support) taps, support = reach * max(scale, 1).
    """
    wide, high = (2 * ceil(reach * max(x.shape[d] / y.shape[d], 1)) for d in (-1, -2))
    horizontal = prod(y.shape[:-2]) * x.shape[-2] * y.shape[-1]
    return horizontal * wide, y.numel * high


def _antialiased_sampler(reach: int, out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """A weighted sum of n taps: n multiplications and n - 1 additions."""
    y = first(out)
    horizontal = prod(y.shape[:-2]) * x.shape[-2] * y.shape[-1]
    return Cost(0, 2 * sum(_antialiased(x, y, reach)) - horizontal - y.numel)


def _antialiased_backward(reach: int, out: Any, grad: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Each tap takes its weight times the gradient, and an addition."""
    return Cost(0, 2 * sum(_antialiased(first(out), grad, reach)))


for _name, _reach in (("bilinear", 1), ("bicubic", 2)):
    formula(f"aten._upsample_{_name}2d_aa")(partial(_antialiased_sampler, _reach))
    formula(f"aten._upsample_{_name}2d_aa_backward")(partial(_antialiased_backward, _reach))


@formula("aten.grid_sampler_2d", "aten.cudnn_grid_sampler")
def grid_sampler_2d(out: Any, x: TensorSpec, grid: TensorSpec, mode: int = 0, *_: Any) -> Cost:
    """mode 0 bilinear, 1 nearest, 2 bicubic; finding the position is 4 for each point of the grid."""
    flops = SAMPLE_FLOPS[("bilinear", "nearest", "bicubic")[mode]]
    return Cost(0, flops * first(out).numel + 2 * grid.numel)


@formula("aten.grid_sampler_3d")
def grid_sampler_3d(out: Any, x: TensorSpec, grid: TensorSpec, mode: int = 0, *_: Any) -> Cost:
    flops = SAMPLE_FLOPS[("trilinear", "nearest")[mode]]
    return Cost(0, flops * first(out).numel + 2 * grid.numel)


@formula("aten.grid_sampler_2d_backward", "aten.grid_sampler_3d_backward")
def grid_sampler_backward(
    out: Any, grad: TensorSpec, x: TensorSpec, grid: TensorSpec, mode: int = 0, *_: Any
) -> Cost:
    """Taps times gradient, added to the input's gradient, and the same again for the grid's."""
    taps = (4 if len(x.shape) == 4 else 8, 1, 16)[mode]
    return Cost(0, 4 * taps * grad.numel + 2 * grid.numel)
