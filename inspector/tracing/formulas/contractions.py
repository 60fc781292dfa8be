"""Operators that multiply and accumulate: convolutions, matrix products, attention, recurrence."""

from __future__ import annotations

from math import prod
from typing import Any

from inspector.tracing.formulas.pointwise import SAMPLE_FLOPS
from inspector.tracing.formulas.registry import Cost, first, formula
from inspector.tracing.record import TensorSpec


def contraction(macs: int, outputs: Any, pointwise: int = 0) -> Cost:
    return Cost(macs, pointwise, first(outputs).numel)


# Matrix products. (m, k) x (k, n) takes m * k * n multiply-accumulates.


@formula(
    "aten.mm",
    "aten.matmul",
    "aten.bmm",
    "aten.mv",
    "aten.dot",
    "aten.vdot",
    "aten._int_mm",
    "aten._sparse_mm",
    "aten._weight_int8pack_mm",
    "torchao.int_matmul",
)
def mm(out: Any, a: TensorSpec, b: TensorSpec, *_: Any, **__: Any) -> Cost:
    return contraction(first(out).numel * a.shape[-1], out)


def scaled_sum(out: Any, added: TensorSpec, beta: Any, alpha: Any) -> int:
    """FLOPs of beta * added + alpha * product, beside the product: a sum for each output element, unless beta
    is 0 (what is added is then not read); a multiplication of what is added by beta, of the product by alpha,
    each unless it is 1."""
    sums = first(out).numel + (added.numel if beta != 1 else 0) if beta != 0 else 0
    return sums + (first(out).numel if alpha != 1 else 0)


@formula("aten.addmm", "aten.baddbmm", "aten.addmv")
def addmm(
    out: Any,
    bias: TensorSpec,
    a: TensorSpec,
    b: TensorSpec,
    *_: Any,
    beta: Any = 1,
    alpha: Any = 1,
    **__: Any,
) -> Cost:
    return contraction(first(out).numel * a.shape[-1], out, scaled_sum(out, bias, beta, alpha))


@formula("aten._addmm_activation")
def addmm_activation(
    out: Any, bias: TensorSpec, a: TensorSpec, b: TensorSpec, *, use_gelu: bool = False, **rest: Any
) -> Cost:
    """relu 1, gelu 5 for each output element."""
    product = addmm(out, bias, a, b, **rest)
    return product._replace(pointwise=product.pointwise + first(out).numel * (5 if use_gelu else 1))


@formula("aten.addbmm")
def addbmm(
    out: Any, bias: TensorSpec, a: TensorSpec, b: TensorSpec, *, beta: Any = 1, alpha: Any = 1, **_: Any
) -> Cost:
    """Sums the batch: a (n, r, k), b (n, k, c), out (r, c)."""
    return contraction(a.numel * b.shape[-1], out, scaled_sum(out, bias, beta, alpha))


@formula("aten.addr")
def addr(
    out: Any, added: TensorSpec, a: TensorSpec, b: TensorSpec, *, beta: Any = 1, alpha: Any = 1, **_: Any
) -> Cost:
    """An outer product sums nothing: one multiplication for each element, as in torch.outer, no MACs."""
    return Cost(0, first(out).numel + scaled_sum(out, added, beta, alpha))


@formula("aten._scaled_mm", "aten._scaled_mm_v2")
def scaled_mm(out: Any, a: TensorSpec, b: TensorSpec, *_: Any, **__: Any) -> Cost:
    """FP8: the two scales are one multiplication per output element."""
    return contraction(first(out).numel * a.shape[-1], out, first(out).numel)


@formula("aten._grouped_mm", "aten._scaled_grouped_mm", "transformers.grouped_mm_fallback")
def grouped_mm(out: Any, a: TensorSpec, b: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Mixture of experts: each row of a meets the matrix of its own group.

    a (rows, k) with b (groups, k, n): rows * k * n. a (m, k) with b (k, n), split along k, gives
    (groups, m, n): the groups share k, so m * k * n.
    """
    if len(a.shape) == 2 and len(b.shape) == 2:
        return contraction(a.shape[0] * a.shape[1] * b.shape[1], out)
    return contraction(first(out).numel * a.shape[-1], out)


@formula("aten.linear", "aten.mkldnn_linear", "mkldnn._linear_pointwise")
def linear(out: Any, x: TensorSpec, weight: TensorSpec, bias: Any = None, *_: Any) -> Cost:
    macs = first(out).numel * x.shape[-1]
    return contraction(macs, out, first(out).numel if bias is not None else 0)


@formula("aten.linear_backward")
def linear_backward(out: Any, x: TensorSpec, grad: TensorSpec, weight: TensorSpec, mask: list[bool]) -> Cost:
    products = int(mask[0]) + int(mask[1])
    return Cost(products * grad.numel * x.shape[-1], grad.numel if mask[2] else 0)


@formula("aten.matmul_backward")
def matmul_backward(out: Any, grad: TensorSpec, a: TensorSpec, b: TensorSpec, mask: list[bool]) -> Cost:
    """The gradient of each factor is a product of the gradient with the other factor."""
    return Cost(sum(map(bool, mask)) * grad.numel * a.shape[-1], 0)


@formula("aten._trilinear")
def trilinear(
    out: Any,
    a: TensorSpec,
    b: TensorSpec,
    c: TensorSpec,
    expand1: list[int],
    expand2: list[int],
    expand3: list[int],
    sumdim: list[int],
    unroll_dim: int = 1,
) -> Cost:
    """The core of nn.Bilinear: sum over `sumdim` of a * b * c after broadcasting.

    One multiplication by the first pair and one multiply-accumulate with the third.
    """
    factors = ((a.shape, expand1), (b.shape, expand2), (c.shape, expand3))
    positions = range(len(a.shape) + len(expand1))
    full = prod(max(_expanded(*factor, position) for factor in factors) for position in positions)
    return contraction(full, out, full)


def _expanded(shape: tuple[int, ...], inserted: list[int], position: int) -> int:
    """Size at `position` after dimensions of size 1 were inserted at `inserted`."""
    if position in inserted:
        return 1
    return shape[position - sum(1 for index in inserted if index < position)]


# Convolutions. Each output element is a dot product over in_channels / groups * kernel elements;
# a transposed one spreads each input element over out_channels / groups * kernel elements.


def conv_macs(x: TensorSpec, weight: TensorSpec, out: TensorSpec, transposed: bool) -> int:
    """x (n, c_in, *size), weight (c_out, c_in / groups, *kernel), out (n, c_out, *size);

    transposed: weight (c_in, c_out / groups, *kernel).
    """
    per_element = prod(weight.shape[1:])
    return (x.numel if transposed else out.numel) * per_element


@formula("aten.convolution", "aten.convolution_overrideable", "aten._convolution")
def convolution(
    out: Any,
    x: TensorSpec,
    weight: TensorSpec,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *_: Any,
) -> Cost:
    added = first(out).numel if bias is not None else 0
    return contraction(conv_macs(x, weight, first(out), transposed), out, added)


@formula(
    "aten.conv1d",
    "aten.conv2d",
    "aten.conv3d",
    "aten.mkldnn_convolution",
    "aten._conv_depthwise2d",
    "aten.conv_depthwise3d",
    "aten.cudnn_convolution",
    "aten.miopen_convolution",
)
def conv(out: Any, x: TensorSpec, weight: TensorSpec, *args: Any, **kwargs: Any) -> Cost:
    bias = kwargs.get("bias", next((a for a in args if isinstance(a, TensorSpec)), None))
    added = first(out).numel if bias is not None else 0
    return contraction(conv_macs(x, weight, first(out), False), out, added)


@formula("aten.cudnn_convolution_transpose")
def cudnn_convolution_transpose(out: Any, x: TensorSpec, weight: TensorSpec, *_: Any, **__: Any) -> Cost:
    return contraction(conv_macs(x, weight, first(out), True), out)


@formula("aten.convolution_backward")
def convolution_backward(
    out: Any,
    grad: TensorSpec,
    x: TensorSpec,
    weight: TensorSpec,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: list[bool],
) -> Cost:
    """The gradients of input and weight each take the forward's multiply-accumulates.

    d loss / d x is the transposed convolution of the gradient, d loss / d weight correlates input
    and gradient: the same triples (input element, weight element, output element) meet in all three.
    """
    products = int(output_mask[0]) + int(output_mask[1])
    added = grad.numel if output_mask[2] else 0
    return Cost(products * conv_macs(x, weight, grad, transposed), added)


@formula("torchvision.deform_conv2d")
def deform_conv2d(
    out: Any,
    x: TensorSpec,
    weight: TensorSpec,
    offset: TensorSpec,
    mask: TensorSpec,
    bias: Any,
    *rest: Any,
) -> Cost:
    """A convolution whose taps are sampled bilinearly (and masked) at learned positions."""
    y = first(out)
    added = y.numel if isinstance(bias, TensorSpec) and bias.numel else 0
    return contraction(conv_macs(x, weight, y, False), out, _sampled(x, weight, y, rest) + added)


def _sampled(x: TensorSpec, weight: TensorSpec, y: TensorSpec, rest: tuple[Any, ...]) -> int:
    """FLOPs of all taps; the last argument of the operator says whether a mask weights them."""
    taps = y.shape[0] * x.shape[1] * prod(weight.shape[2:]) * prod(y.shape[2:])
    return taps * (SAMPLE_FLOPS["bilinear"] + bool(rest and rest[-1]))


@formula("torchvision._deform_conv2d_backward")
def deform_conv2d_backward(
    out: Any,
    grad: TensorSpec,
    x: TensorSpec,
    weight: TensorSpec,
    offset: TensorSpec,
    mask: TensorSpec,
    bias: Any,
    *rest: Any,
) -> Cost:
    """Column gradient and weight gradient are one product each; sampling runs twice again
    (scattering the input gradient, and the offset gradient)."""
    pointwise = 2 * _sampled(x, weight, grad, rest) + grad.numel
    return Cost(2 * conv_macs(x, weight, grad, False), pointwise)
