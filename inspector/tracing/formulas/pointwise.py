"""Everything that is not a contraction: pointwise FLOPs.

The unit is one elementary operation on one element: add, subtract, multiply, divide, compare, and
one library function (exp, log, sqrt, tanh, erf, sin ...). XLA's HloCostAnalysis counts elementwise
operators the same way (openxla/xla, hlo_cost_analysis.cc). A compound function costs the sum over
its definition, spelled out in the tables here. Normalisation follows fvcore 0.1.5
(fvcore/nn/jit_handles.py): 5 per element with a learned scale and shift, 4 without; evaluated with
stored statistics, 2 and 1. A product that is added to something, beta * a + alpha * product, costs one
for each output element, one more for each element of a where beta is not 1, and one for each of the
product where alpha is not 1; nothing for a where beta is 0. Linear algebra has a file of its own. The
FFT follows FFTW's convention, 5 N log2 N (fftw.org/speed).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from inspector.tracing.formulas.registry import Cost, first, formula, numel
from inspector.tracing.record import TensorSpec

SOFTMAX = 5  # max, subtract, exp, sum, divide
SOFTMAX_BACKWARD = 4  # y * (g - sum(g * y)): multiply, sum, subtract, multiply
NORM = {"affine": 5, "plain": 4}
NORM_STORED = {"affine": 2, "plain": 1}
NORM_BACKWARD = {"affine": 13, "plain": 9}
"""Gradient of (x - mean) * rstd [* w + b]. plain: the normalised input again (2), two sums over
the gradient (1 and 2), the combination (4). affine: also g * w (1), grad w (2), grad b (1)."""
NORM_STORED_BACKWARD = {"affine": 6, "plain": 1}
"""With stored statistics g * (w * rstd) (1); affine: also the normalised input again (2), grad w (2),
grad b (1)."""
SAMPLE_FLOPS = {"nearest": 0, "linear": 3, "bilinear": 7, "trilinear": 15, "bicubic": 31}
"""A weighted sum of n taps is n multiplications and n - 1 additions (2, 4, 8 and 16 taps)."""
GATE_FLOPS = {"relu": 2, "tanh": 2, "lstm": 22, "gru": 16}
"""A recurrent cell per hidden unit, after the products and their biases. relu and tanh: add the
two halves, activation. lstm: 4 adds, 3 sigmoids of 4, 2 tanh, c = f * c + i * g (3), h = o * tanh
(1). gru: 2 adds and 2 sigmoids of 4 for r and z; n = tanh(a + r * b) (3); h = (h - n) * z + n (3)."""

PER_OUTPUT = {
    1: """
        abs acos acosh add angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift
        bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil clamp_max clamp_min conj_physical
        copysign cos cosh deg2rad digamma div eq erf erfc erfinv exp exp2 expm1 floor floor_divide
        fmax fmin fmod frac ge gt heaviside hypot i0 igamma igammac isfinite isinf isnan isneginf
        isposinf ldexp le lgamma log log10 log1p log2 logical_and logical_not logical_or logical_xor
        lt masked_fill maximum minimum mul nan_to_num ne neg nextafter pow polar rad2deg reciprocal
        relu remainder round rsqrt sgn sign signbit sin sinh special_entr special_erfcx special_i0e
        special_i1 special_i1e special_ndtri sqrt square sub tan tanh threshold trunc where xlogy
        __and__ __or__ __xor__ __iand__ __ior__ __ixor__ __lshift__ __rshift__ __ilshift__
        __irshift__ cumsum cumprod cummax cummin threshold_backward hardtanh_backward rsub
        hardshrink hardshrink_backward softshrink_backward float_power polygamma gcd lcm frexp
        special_zeta special_xlog1py special_airy_ai special_bessel_j0 special_bessel_j1
        special_bessel_y0 special_bessel_y1 special_modified_bessel_i0 special_modified_bessel_i1
        special_modified_bessel_k0 special_modified_bessel_k1 special_scaled_modified_bessel_k0
        special_scaled_modified_bessel_k1 special_spherical_bessel_j0 _standard_gamma_grad
        _dirichlet_grad
    """,
    2: """
        hardtanh relu6 softshrink leaky_relu leaky_relu_backward prelu _prelu_kernel
        native_dropout _fused_dropout native_dropout_backward _masked_scale
        hardsigmoid_backward mse_loss_backward
    """,
    3: """
        addcdiv addcmul lerp softplus tanh_backward sigmoid_backward logcumsumexp sinc elu
        smooth_l1_loss_backward huber_loss_backward logit logit_backward log_sigmoid_backward
    """,
    4: """
        sigmoid hardsigmoid hardswish_backward softplus_backward celu elu_backward logaddexp
        logaddexp2 _prelu_kernel_backward
    """,
    5: "silu hardswish glu log_sigmoid_forward special_log_ndtr",
    6: "mish",
    9: "silu_backward",
    14: "mish_backward",
}
"""FLOPs per output element, by operator. sigmoid 1 / (1 + exp(-x)): 4; silu x * sigmoid(x): 5;
hardsigmoid clip(x + 3, 0, 6) / 6: 4; hardswish x * that: 5; softplus log(1 + exp(x)): 3;
mish x * tanh(softplus(x)): 5, and its threshold; a clamp's two bounds: 2; addcmul a + c * x * y: 3;
lerp a + w * (b - a): 3; dropout, mask and scale: 2 (draws are not arithmetic), its backward too;
logaddexp log(exp(a) + exp(b)): 4; logit log(x / (1 - x)): 3, backward g / (x * (1 - x)): 3;
glu a * sigmoid(b): 5; log_sigmoid -log(1 + exp(-x)): 5, backward g * z / (1 + z) with z kept: 3;
sigmoid_backward g * (1 - y) * y: 3; tanh_backward g * (1 - y * y): 3;
softplus_backward g * z / (1 + z), z = exp(x): 4;
silu_backward g * s * (1 + x * (1 - s)), s = sigmoid(x) again: 9;
mish_backward g * (t + x * s * (1 - t * t)), t = tanh(softplus(x)) and s = sigmoid(x) again: 14.
_standard_gamma_grad and _dirichlet_grad, the derivative of a draw by its parameter, are one library
function as digamma is: 1.
A select, with the comparisons that decide it, is 1, and its costliest branch counts: leaky_relu
and prelu w * x: 2, backward 2, with a gradient of w 4; elu a * expm1(x): 3, backward
g * a * exp(x): 4; celu divides before: 4; softshrink x - a: 2; the backward of shrinks and hardtanh
1, of hardsigmoid g / 6: 2, of hardswish g * (x / 3 + 1 / 2): 4, of smooth L1 and Huber
g * (x - t): 3, of the squared error 2."""

PRIMITIVES = """
    abs acos acosh add asin asinh atan atan2 atanh ceil cos cosh div eq erf erfc exp exp2 expm1 floor fmax
    fmin fmod ge gt hypot le lgamma log log10 log1p log2 lt maximum minimum mul ne neg pow reciprocal
    remainder round rsqrt sign signbit sin sinh sqrt sub tan tanh trunc where
"""
"""Into which torch.func splits some operators: one FLOP an output element."""

PER_INPUT = {
    1: """
        sum mean amax amin prod any all argmax argmin nansum count_nonzero aminmax mode
        median nanmedian kthvalue equal isin bincount histc _is_all_true _is_any_true
        max_pool2d_with_indices_backward max_pool3d_with_indices_backward
        adaptive_max_pool2d_backward adaptive_max_pool3d_backward
        upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
        _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward
        _upsample_nearest_exact3d_backward embedding_dense_backward
        reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward
        replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward
        _unsafe_masked_index_put_accumulate _unsafe_masked_index glu_jvp
    """,
    2: "norm linalg_vector_norm",
    3: "mse_loss",
    4: "var std var_mean std_mean logsumexp",
    6: "smooth_l1_loss huber_loss",
    8: "binary_cross_entropy",
}
"""FLOPs per element of the first input: reductions, and gradients that only accumulate. A vector
norm is a power and a sum; a variance is a sum, a subtraction, a square and a sum; logsumexp is
max, subtract, exp, sum, as in softmax. Losses with their sum: squared error 3; smooth L1 and Huber
d = x - t, |d|, select, d * d / 2: 6; cross entropy (t - 1) * log(1 - x) - t * log(x): 8."""


def _elementwise(flops: int, out: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, flops * first(out).numel)


def _reduction(flops: int, out: Any, x: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, flops * numel(x))


for _table, _function in ((PER_OUTPUT, _elementwise), (PER_INPUT, _reduction)):
    for _flops, _names in _table.items():
        formula(*(f"aten.{name}" for name in _names.split()))(partial(_function, _flops))
for _name in PRIMITIVES.split():
    formula(f"prims.{_name}")(partial(_elementwise, 1))


@formula("aten.max", "aten.min")
def extremum(out: Any, x: TensorSpec, *args: Any, **_: Any) -> Cost:
    """Of all elements, along a dimension, or of two tensors."""
    return Cost(0, first(out).numel if args and isinstance(args[0], TensorSpec) else x.numel)


@formula("aten.mvlgamma")
def mvlgamma(out: Any, x: TensorSpec, p: int) -> Cost:
    """The sum of lgamma(x - j / 2) over p values of j: subtract, lgamma, add."""
    return Cost(0, 3 * p * x.numel)


@formula("aten.allclose")
def allclose(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """|x - y| <= a + r * |y| for each element, and whether all are: 7."""
    return Cost(0, 7 * x.numel)


@formula("aten.renorm")
def renorm(out: Any, x: TensorSpec, *_: Any) -> Cost:
    """The norm of each slice (2), and its scaling (1)."""
    return Cost(0, 3 * x.numel)


@formula("aten.trace")
def trace(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Adds the diagonal."""
    return Cost(0, min(x.shape))


@formula("aten.clamp")
def clamp(out: Any, x: TensorSpec, low: Any = None, high: Any = None) -> Cost:
    """One comparison for each bound."""
    return Cost(0, first(out).numel * ((low is not None) + (high is not None)))


@formula("aten.gelu")
def gelu(out: Any, x: TensorSpec, *, approximate: str = "none") -> Cost:
    """x / 2 * (1 + erf(x / sqrt 2)): 5. With tanh: x / 2 * (1 + tanh(a * (x + b * x * x * x))): 9."""
    return Cost(0, x.numel * (9 if approximate == "tanh" else 5))


@formula("aten.gelu_backward")
def gelu_backward(out: Any, grad: TensorSpec, x: TensorSpec, *, approximate: str = "none") -> Cost:
    """g * (cdf + x * pdf): cdf (1 + erf(x / sqrt 2)) / 2 is 4, pdf a * exp(-x * x / 2) is 4, 3 more.

    tanh: g / 2 * (1 + t + x * (1 - t * t) * du): the argument u of tanh 5, t 1, du = a * (1 + 3 b * x * x)
    with x * x kept 3, 1 - t * t 2, the rest 6.
    """
    return Cost(0, x.numel * (17 if approximate == "tanh" else 11))


@formula("aten.glu_backward")
def glu_backward(out: Any, grad: TensorSpec, *_: Any) -> Cost:
    """ga = g * s with s = sigmoid(b) (5); gb = g * a * s * (1 - s) (4)."""
    return Cost(0, 9 * grad.numel)


@formula("aten.binary_cross_entropy_backward")
def binary_cross_entropy_backward(out: Any, grad: TensorSpec, x: TensorSpec, *_: Any) -> Cost:
    """g * (x - t) / (x * (1 - x)): 5."""
    return Cost(0, 5 * x.numel)


@formula("aten.binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    out: Any, x: TensorSpec, target: TensorSpec, weight: Any = None, pos_weight: Any = None, *_: Any
) -> Cost:
    """(1 - t) * x + log(1 + exp(-x)): 7, and the sum. A weight multiplies (1); a positive weight
    scales the logarithm by 1 + (p - 1) * t (3, p - 1 is free)."""
    weighted = isinstance(weight, TensorSpec) + 3 * isinstance(pos_weight, TensorSpec)
    return Cost(0, x.numel * (8 + weighted))


@formula("aten.embedding_renorm")
def embedding_renorm(out: Any, weight: TensorSpec, indices: TensorSpec, *_: Any) -> Cost:
    """The norm of each row that is used (2), and its scaling (1)."""
    return Cost(0, 3 * indices.numel * weight.shape[-1])


@formula("aten._softmax", "aten._safe_softmax", "aten._log_softmax")
def softmax(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, SOFTMAX * x.numel)


@formula("aten._softmax_backward_data", "aten._log_softmax_backward_data")
def softmax_backward(out: Any, grad: TensorSpec, *_: Any, **__: Any) -> Cost:
    """log_softmax: g - exp(y) * sum(g), also 4."""
    return Cost(0, SOFTMAX_BACKWARD * grad.numel)


@formula("aten.nll_loss_forward", "aten.nll_loss2d_forward", "aten.nll_loss_backward")
def nll_loss(out: Any, *args: Any, **__: Any) -> Cost:
    """One addition a sample; the target is the first integer tensor."""
    integer = ("int64", "uint8")
    target = next(a for a in args if isinstance(a, TensorSpec) and a.dtype in integer)
    return Cost(0, target.numel)


formula("aten.nll_loss2d_backward")(nll_loss)
