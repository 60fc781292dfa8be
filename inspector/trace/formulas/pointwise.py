"""Everything that is not a contraction: pointwise FLOPs.

The unit is one elementary operation on one element: add, subtract, multiply, divide, compare, and
one library function (exp, log, sqrt, tanh, erf, sin ...). XLA's HloCostAnalysis counts elementwise
operators the same way (openxla/xla, hlo_cost_analysis.cc). A compound function costs the sum over
its definition, spelled out in the tables here. Normalisation follows fvcore 0.1.5
(fvcore/nn/jit_handles.py): 5 per element with a learned scale and shift, 4 without; evaluated with
stored statistics, 2 and 1. The FFT follows FFTW's convention, 5 N log2 N (fftw.org/speed).
"""

from __future__ import annotations

from math import ceil, log2, prod
from typing import Any

from inspector.trace.formulas import Cost, first, formula, numel
from inspector.trace.record import TensorSpec

SOFTMAX = 5  # max, subtract, exp, sum, divide
SOFTMAX_BACKWARD = 4  # y * (g - sum(g * y)): multiply, sum, subtract, multiply
NORM = {"affine": 5, "plain": 4}
NORM_STORED = {"affine": 2, "plain": 1}
NORM_BACKWARD = {"affine": 13, "plain": 9}
"""Gradient of (x - mean) * rstd [* w + b]. plain: the normalised input again (2), two sums over
the gradient (1 and 2), the combination (4). affine: also g * w (1), grad w (2), grad b (1)."""
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
        __irshift__ cumsum cumprod cummax cummin prelu _prelu_kernel threshold_backward
        hardtanh_backward leaky_relu_backward native_dropout_backward relu6 float_power
    """,
    2: """
        clamp hardtanh hardshrink softshrink leaky_relu rsub elu celu native_dropout _fused_dropout
        hardsigmoid_backward softshrink_backward hardshrink_backward mse_loss_backward logit
    """,
    3: """
        addcdiv addcmul lerp softplus softplus_backward tanh_backward sigmoid_backward logaddexp
        logaddexp2 logcumsumexp sinc elu_backward _masked_scale mse_loss smooth_l1_loss_backward
        huber_loss_backward logit_backward log_sigmoid_backward
    """,
    4: "sigmoid hardsigmoid hardswish_backward log_sigmoid_forward",
    5: "silu hardswish special_log_ndtr",
    6: "mish",
    9: "silu_backward",
    11: "mish_backward",
}
"""FLOPs per output element, by operator. sigmoid 1 / (1 + exp(-x)): 4; silu x * sigmoid(x): 5;
hardsigmoid clip(x + 3, 0, 6) / 6: 4; hardswish x * that: 5; softplus log(1 + exp(x)): 3;
mish x * tanh(softplus(x)): 5, and its threshold; a clamp's two bounds: 2; addcmul a + c * x * y: 3;
lerp a + w * (b - a): 3; dropout, mask and scale: 2 (draws are not arithmetic); logaddexp: 3;
sigmoid_backward g * (1 - y) * y: 3; tanh_backward g * (1 - y * y): 3;
silu_backward g * s * (1 + x * (1 - s)), s = sigmoid(x) again: 9. Select and compare are 1."""

PER_INPUT = {
    1: """
        sum mean amax amin max min prod any all argmax argmin nansum count_nonzero aminmax mode
        median kthvalue equal isin bucketize searchsorted bincount histc trace
        max_pool2d_with_indices_backward max_pool3d_with_indices_backward
        adaptive_max_pool2d_backward adaptive_max_pool3d_backward
        upsample_nearest1d_backward upsample_nearest2d_backward upsample_nearest3d_backward
        _upsample_nearest_exact1d_backward _upsample_nearest_exact2d_backward
        _upsample_nearest_exact3d_backward embedding_dense_backward embedding_renorm
        reflection_pad1d_backward reflection_pad2d_backward reflection_pad3d_backward
        replication_pad1d_backward replication_pad2d_backward replication_pad3d_backward
        _unsafe_masked_index_put_accumulate _unsafe_masked_index glu_jvp
    """,
    2: "norm linalg_vector_norm",
    3: "logsumexp glu",
    4: "var std var_mean std_mean smooth_l1_loss huber_loss",
    6: "binary_cross_entropy",
}
"""FLOPs per element of the first input: reductions, and gradients that only accumulate. A vector
norm is a power and a sum; a variance is a sum, a subtraction, a square and a sum; logsumexp is
max, subtract, exp, sum, of which the max is free in the running form: 3; glu a * sigmoid(b) is 5 for
half as many outputs: 3 with rounding up."""


def _register(table: dict[int, str], count: Any) -> None:
    for flops, names in table.items():
        for name in names.split():
            formula(f"aten.{name}")(count(flops))


def _per_output(flops: int) -> Any:
    def elementwise(out: Any, *_: Any, **__: Any) -> Cost:
        return Cost(0, flops * first(out).numel)

    return elementwise


def _per_input(flops: int) -> Any:
    def reduction(out: Any, x: Any, *args: Any, **__: Any) -> Cost:
        elementwise = bool(args) and isinstance(args[0], TensorSpec)
        return Cost(0, flops * max(numel(x), numel(args[0]) if elementwise else 0))

    return reduction


_register(PER_OUTPUT, _per_output)
_register(PER_INPUT, _per_input)


@formula("aten.clamp")
def clamp(out: Any, x: TensorSpec, low: Any = None, high: Any = None) -> Cost:
    return Cost(0, first(out).numel * ((low is not None) + (high is not None)))


@formula("aten.gelu")
def gelu(out: Any, x: TensorSpec, *, approximate: str = "none") -> Cost:
    """x / 2 * (1 + erf(x / sqrt 2)): 5. With tanh: x / 2 * (1 + tanh(a * (x + b * x * x * x))): 9."""
    return Cost(0, x.numel * (9 if approximate == "tanh" else 5))


@formula("aten.gelu_backward")
def gelu_backward(out: Any, grad: TensorSpec, x: TensorSpec, *, approximate: str = "none") -> Cost:
    """g * (cdf + x * pdf): cdf (1 + erf(x / sqrt 2)) / 2 is 4, pdf a * exp(-x * x / 2) is 4, 3 more.

    tanh: inner 4, tanh 1, (1 + t) / 2 2, 1 - t * t 2, inner derivative 4, x / 2 * 2, add, times g.
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
    target = next(a for a in args if isinstance(a, TensorSpec) and a.dtype == "int64")
    return Cost(0, target.numel)


formula("aten.nll_loss2d_backward")(nll_loss)


# Normalisation.


def _affine(weight: Any) -> str:
    return "affine" if isinstance(weight, TensorSpec) else "plain"


@formula("aten.native_batch_norm", "aten._native_batch_norm_legit", "aten._batch_norm_impl_index")
def batch_norm(out: Any, x: TensorSpec, weight: Any, bias: Any, *rest: Any, **__: Any) -> Cost:
    """rest: running mean, running variance, training, ... (without the first two for no_stats)."""
    training = next((entry for entry in rest if isinstance(entry, bool)), True)
    return Cost(0, x.numel * (NORM if training else NORM_STORED)[_affine(weight)])


@formula("aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update")
def batch_norm_stored(out: Any, x: TensorSpec, weight: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, x.numel * NORM_STORED[_affine(weight)])


@formula(
    "aten.cudnn_batch_norm", "aten.miopen_batch_norm", "aten._batch_norm_with_update",
    "aten._batch_norm_with_update_functional",
)
def batch_norm_training(out: Any, x: TensorSpec, weight: Any, *rest: Any, **__: Any) -> Cost:
    training = next((entry for entry in rest if isinstance(entry, bool)), True)
    return Cost(0, x.numel * (NORM if training else NORM_STORED)[_affine(weight)])


@formula("aten.native_layer_norm")
def layer_norm(out: Any, x: TensorSpec, shape: Any, weight: Any = None, *_: Any) -> Cost:
    return Cost(0, x.numel * NORM[_affine(weight)])


@formula("aten.native_group_norm")
def group_norm(out: Any, x: TensorSpec, weight: Any = None, *_: Any) -> Cost:
    return Cost(0, x.numel * NORM[_affine(weight)])


@formula("aten._fused_rms_norm", "aten.rms_norm")
def rms_norm(out: Any, x: TensorSpec, shape: Any, weight: Any = None, *_: Any) -> Cost:
    """Square, sum, multiply by the inverse root, [multiply by the weight]."""
    return Cost(0, x.numel * (3 + isinstance(weight, TensorSpec)))


@formula("aten._fused_rms_norm_backward")
def rms_norm_backward(
    out: Any, grad: TensorSpec, x: TensorSpec, shape: Any, rstd: Any, weight: Any, mask: Any
) -> Cost:
    """Normalised input 1, sum(g * x) 2, combination 3; with a weight g * w 1 and grad w 2."""
    return Cost(0, x.numel * (9 if isinstance(weight, TensorSpec) else 6))


@formula("aten.native_batch_norm_backward", "aten.batch_norm_backward")
def batch_norm_backward(out: Any, grad: TensorSpec, x: TensorSpec, weight: Any, *_: Any) -> Cost:
    return Cost(0, x.numel * NORM_BACKWARD[_affine(weight)])


@formula("aten.cudnn_batch_norm_backward", "aten.miopen_batch_norm_backward")
def cudnn_batch_norm_backward(out: Any, x: TensorSpec, *_: Any) -> Cost:
    return Cost(0, x.numel * NORM_BACKWARD["affine"])


@formula("aten.native_layer_norm_backward")
def layer_norm_backward(
    out: Any, grad: TensorSpec, x: TensorSpec, shape: Any, mean: Any, rstd: Any, weight: Any, *_: Any
) -> Cost:
    return Cost(0, x.numel * NORM_BACKWARD[_affine(weight)])


@formula("aten.native_group_norm_backward")
def group_norm_backward(
    out: Any, grad: TensorSpec, x: TensorSpec, mean: Any, rstd: Any, weight: Any, *_: Any
) -> Cost:
    return Cost(0, x.numel * NORM_BACKWARD[_affine(weight)])


@formula("aten._weight_norm_interface")
def weight_norm(out: Any, v: TensorSpec, g: TensorSpec, *_: Any) -> Cost:
    """v * (g / norm(v)): square, sum, multiply."""
    return Cost(0, 3 * v.numel)


@formula("aten._weight_norm_interface_backward")
def weight_norm_backward(out: Any, grad: TensorSpec, v: TensorSpec, *_: Any) -> Cost:
    """sum(grad * v) 2, then (grad - v * c) * (g / norm): 3."""
    return Cost(0, 5 * v.numel)


# Pooling: each output compares or adds the elements of its window.


@formula(
    "aten.max_pool2d_with_indices", "aten.max_pool3d_with_indices", "aten.max_pool2d",
    "aten.avg_pool1d", "aten.avg_pool2d", "aten.avg_pool3d", "quantized.max_pool2d",
    "aten.quantized_max_pool2d", "aten.quantized_max_pool1d",
)
def pool(out: Any, x: TensorSpec, kernel: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, first(out).numel * _window(x, kernel))


@formula("aten.avg_pool2d_backward", "aten.avg_pool3d_backward")
def avg_pool_backward(out: Any, grad: TensorSpec, x: TensorSpec, kernel: Any, *_: Any) -> Cost:
    return Cost(0, grad.numel * _window(x, kernel))


def _window(x: TensorSpec, kernel: Any) -> int:
    """Elements of a window; a kernel of one number is square (2-d over NCHW, 3-d over NCDHW)."""
    kernel = [kernel] if isinstance(kernel, int) else list(kernel)
    dims = max(len(x.shape) - 2, 1) if len(kernel) == 1 and len(x.shape) > 3 else len(kernel)
    return prod(kernel) if len(kernel) > 1 else kernel[0] ** dims


@formula(
    "aten._adaptive_avg_pool2d", "aten._adaptive_avg_pool3d", "aten.adaptive_max_pool2d",
    "aten.adaptive_max_pool3d", "aten.adaptive_avg_pool1d", "aten.adaptive_avg_pool2d",
    "aten.mkldnn_adaptive_avg_pool2d",
)
def adaptive_pool(out: Any, x: TensorSpec, *_: Any) -> Cost:
    return Cost(0, _adaptive(x, first(out)))


@formula("aten._adaptive_avg_pool2d_backward", "aten._adaptive_avg_pool3d_backward")
def adaptive_pool_backward(out: Any, grad: TensorSpec, x: TensorSpec) -> Cost:
    return Cost(0, _adaptive(x, grad))


def _adaptive(x: TensorSpec, y: TensorSpec) -> int:
    """Window i of n over length L runs from floor(i L / n) to ceil((i + 1) L / n)."""
    dims = len(y.shape) - (2 if len(y.shape) > 3 else 1)
    total = prod(y.shape[:-dims])
    for length, n in zip(x.shape[-dims:], y.shape[-dims:]):
        total *= sum(-(-(i + 1) * length // n) - i * length // n for i in range(n))
    return total


@formula("torchvision.roi_align")
def roi_align(
    out: Any, x: TensorSpec, rois: TensorSpec, scale: float, height: int, width: int,
    ratio: int, *_: Any,
) -> Cost:
    """ratio x ratio bilinear samples, averaged, for each output. ratio 0 adapts to the box's size,
    which the shapes do not tell: then one sample is counted, a lower bound."""
    samples = max(ratio, 1) ** 2
    return Cost(0, first(out).numel * samples * (SAMPLE_FLOPS["bilinear"] + 1))


@formula("torchvision._roi_align_backward")
def roi_align_backward(
    out: Any, grad: TensorSpec, rois: TensorSpec, scale: float, height: int, width: int,
    batch: int, channels: int, h: int, w: int, ratio: int, *_: Any,
) -> Cost:
    return Cost(0, grad.numel * max(ratio, 1) ** 2 * (SAMPLE_FLOPS["bilinear"] + 1))


@formula("torchvision.nms")
def nms(out: Any, boxes: TensorSpec, *_: Any) -> Cost:
    """All pairs of boxes, worst case: intersection (4 min or max, 2 subtract, 2 clamp, 1 multiply),
    union (2), quotient and comparison."""
    n = boxes.shape[0]
    return Cost(0, 13 * (n * (n - 1) // 2) + n * ceil(log2(n)) if n > 1 else 0)


# Interpolation and sampling.


def _sampler(kind: str) -> Any:
    def sample(out: Any, *_: Any, **__: Any) -> Cost:
        return Cost(0, SAMPLE_FLOPS[kind] * first(out).numel)

    return sample


def _sampler_backward(kind: str) -> Any:
    """Each tap takes its weight times the gradient, and an addition."""
    taps = (SAMPLE_FLOPS[kind] + 1) // 2

    def sample(out: Any, grad: TensorSpec, *_: Any, **__: Any) -> Cost:
        return Cost(0, 2 * taps * grad.numel)

    return sample


_SAMPLERS = {
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
}
for _name, _kind in _SAMPLERS.items():
    formula(f"aten.{_name}")(_sampler(_kind))
    formula(f"aten.{_name}_backward")(_sampler_backward(_kind))


@formula("aten._upsample_bilinear2d_aa", "aten._upsample_bicubic2d_aa")
def upsample_antialiased(out: Any, x: TensorSpec, *_: Any) -> Cost:
    """Separable: each pass weighs 2 * support taps, support = (1 or 2) * max(scale, 1); bicubic has
    twice the taps, so bilinear is counted with the larger rounding."""
    y = first(out)
    horizontal = TensorSpec((*y.shape[:-1][:-1], x.shape[-2], y.shape[-1]), y.dtype)
    taps_w, taps_h = (2 * ceil(max(x.shape[d] / y.shape[d], 1)) for d in (-1, -2))
    return Cost(0, horizontal.numel * (2 * taps_w - 1) + y.numel * (2 * taps_h - 1))


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
    out: Any, grad: TensorSpec, x: TensorSpec, grid: TensorSpec, *_: Any
) -> Cost:
    """Taps times gradient, added to the input's gradient, and the same again for the grid's."""
    taps = 4 if len(x.shape) == 4 else 8
    return Cost(0, 4 * taps * grad.numel + 2 * grid.numel)


# Accumulating scatters: one addition for each element of the source.


@formula("aten.index_add", "aten.scatter_add", "aten.scatter_reduce", "aten.index_reduce")
def scatter_add(out: Any, x: TensorSpec, dim: int, index: TensorSpec, source: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, numel(source))


@formula("aten.index_put", "aten._index_put_impl", "aten._unsafe_index_put")
def index_put(
    out: Any, x: TensorSpec, indices: Any, values: TensorSpec, accumulate: bool = False, *_: Any
) -> Cost:
    return Cost(0, values.numel if accumulate else 0)


@formula("aten._embedding_bag", "aten._embedding_bag_forward_only")
def embedding_bag(out: Any, weight: TensorSpec, indices: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, indices.numel * weight.shape[-1])


# Order.


@formula("aten.sort", "aten.argsort", "aten.msort", "aten._unique2", "aten.unique_dim")
def sort(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """n log2 n comparisons."""
    return Cost(0, x.numel * ceil(log2(max(x.shape))) if x.numel > 1 else 0)


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


# Losses whose definition is more than a table row.


@formula("aten.binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(out: Any, x: TensorSpec, *_: Any) -> Cost:
    """max(x, 0) - x * t + log1p(exp(-abs(x))): 8."""
    return Cost(0, 8 * x.numel)


@formula("aten._upsample_bilinear2d_aa_backward", "aten._upsample_bicubic2d_aa_backward")
def upsample_antialiased_backward(
    out: Any, grad: TensorSpec, out_size: Any, in_size: list[int], *_: Any
) -> Cost:
    """Each tap of the forward's two passes gives a multiplication and an addition back."""
    height, width = in_size[-2:]
    horizontal = grad.numel // grad.shape[-2] * height
    taps_w, taps_h = (
        2 * ceil(max(size / length, 1))
        for size, length in zip((width, height), (grad.shape[-1], grad.shape[-2]))
    )
    return Cost(0, 2 * (taps_h * grad.numel + taps_w * horizontal))
