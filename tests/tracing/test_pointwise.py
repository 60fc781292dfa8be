"""FLOPs of everything that is not a contraction: elementwise, reductions, norms, losses, order."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

LONG = torch.int64
COMPLEX = torch.complex64


# Elementwise. Each number is the count of operations in the definition.

ACTIVATIONS = {
    # name: (function, FLOPs per element, backward)
    "relu": (F.relu, 1, 1),
    "threshold": (lambda x: F.threshold(x, 0.5, 0.0), 1, 1),
    "exp, times its result": (torch.exp, 1, 1),
    "log, and a division": (torch.log, 1, 1),
    "hardshrink": (F.hardshrink, 1, 1),
    "softshrink x - a": (F.softshrink, 2, 1),
    "hardtanh, two bounds": (F.hardtanh, 2, 1),
    "relu6, two bounds": (F.relu6, 2, 1),
    "leaky_relu w * x": (F.leaky_relu, 2, 2),
    "elu a * expm1(x), a * exp(x) * g": (F.elu, 3, 4),
    "selu": (F.selu, 3, 4),
    "celu a * expm1(x / a)": (F.celu, 4, 4),
    "softplus log(1 + exp(x)), g * z / (1 + z) with z = exp(x)": (F.softplus, 3, 4),
    "sigmoid 1 / (1 + exp(-x)), g * (1 - y) * y": (torch.sigmoid, 4, 3),
    "tanh, g * (1 - y * y)": (torch.tanh, 1, 3),
    "hardsigmoid clip(x + 3, 0, 6) / 6, g / 6": (F.hardsigmoid, 4, 2),
    "hardswish x * hardsigmoid(x), g * (x / 3 + 1 / 2)": (F.hardswish, 5, 4),
    "silu x * sigmoid(x), sigmoid 4 and g * s * (1 + x * (1 - s))": (F.silu, 5, 4 + 5),
    # mish: t = tanh(softplus(x)) is 4, sigmoid 4, and g * (t + x * s * (1 - t * t)) 6
    "mish": (F.mish, 3 + 1 + 1 + 1, 4 + 4 + 6),
    "logsigmoid -log(1 + exp(-x)), g * z / (1 + z)": (F.logsigmoid, 5, 3),
    # gelu: cdf (1 + erf(x / c)) / 2 is 4, times x; pdf a * exp(-x * x / 2) is 4; g * (cdf + x * pdf)
    "gelu": (F.gelu, 4 + 1, 4 + 4 + 3),
    # u = a * (x + b * x * x * x) is 5; x / 2 * (1 + tanh(u)) is 4
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), 5 + 4, 5 + 1 + 3 + 2 + 6),
    "dropout, mask and scale": (F.dropout, 2, 1),  # the scaled mask is kept
    "logit log(x / (1 - x)), g / (x * (1 - x))": (torch.logit, 3, 3),
    "softmax: max, subtract, exp, sum, divide": (lambda x: F.softmax(x, -1), 5, 4),
    "log_softmax": (lambda x: F.log_softmax(x, -1), 5, 4),
    "cumsum": (lambda x: torch.cumsum(x, 0), 1, None),
    "clamp, one bound": (lambda x: torch.clamp(x, min=0), 1, None),
    "clamp, two bounds": (lambda x: torch.clamp(x, 0, 1), 2, None),
    "clamp, one bound above": (lambda x: torch.clamp(x, max=1), 1, None),
    "one minus": (lambda x: 1 - x, 1, None),
    "sinc sin(a * x) / (a * x)": (torch.sinc, 3, None),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_activation_costs_what_its_definition_does(case, count, meta):
    function, forward, backward = ACTIVATIONS[case]
    x = meta(2, 5)
    assert count(function, x, phase="train", only="forward").pointwise == forward * 10
    if backward is not None:
        assert count(function, meta(2, 5), phase="train", only="backward").pointwise == backward * 10


BINARY = {
    # name: (function, FLOPs per output element)
    "add": (torch.add, 1),
    "mul": (torch.mul, 1),
    "maximum": (torch.maximum, 1),
    "max of two": (torch.max, 1),
    "atan2": (torch.atan2, 1),
    "greater": (torch.gt, 1),
    "lerp a + w * (b - a)": (lambda a, b: torch.lerp(a, b, 0.3), 3),
    "addcmul a + c * a * b": (lambda a, b: torch.addcmul(a, a, b, value=2), 3),
    "logaddexp log(exp(a) + exp(b))": (torch.logaddexp, 4),
}


@pytest.mark.parametrize("case", BINARY)
def test_binary_operator_counts_broadcast_outputs(case, count, meta):
    function, each = BINARY[case]
    assert count(function, meta(4, 3), meta(3)).pointwise == each * 12


def test_in_place_operator_costs_the_same(count, meta):
    assert count(lambda x, y: x.mul_(y), meta(4, 3), meta(3)).pointwise == 12


def test_select_by_a_mask_costs_one(count, meta):
    mask = meta(4, 3, dtype=torch.bool)
    assert count(torch.where, mask, meta(4, 3), meta(4, 3)).pointwise == 12
    assert count(lambda x, m: x.masked_fill(m, 0.0), meta(4, 3), mask).pointwise == 12


def test_prelu_multiplies_and_its_backward_has_two_gradients(count, meta):
    # forward select and w * x; backward select and g * w, select and g * x, summed to one per channel
    assert count(nn.PReLU(3), meta(2, 3, 4)).pointwise == 2 * 24
    backward = count(nn.PReLU(3), meta(2, 3, 4), phase="train", only="backward")
    assert backward.pointwise == 4 * 24 + 24


def test_glu_costs_five_per_output_and_nine_backward(count, meta):
    # 10 outputs: a * sigmoid(b); g * s with s again 5, g * a * s * (1 - s) 4
    assert count(F.glu, meta(2, 10)).pointwise == 5 * 10
    assert count(F.glu, meta(2, 10), phase="train", only="backward").pointwise == 9 * 10


@pytest.mark.parametrize(("name", "each"), [("native_dropout", 2), ("native_dropout_backward", 2)])
def test_fused_dropout_masks_and_scales(name, each, price):
    assert price(f"aten.{name}", [(2, 5)], (2, 5), 0.5, True).pointwise == each * 10


# Reductions count the elements that they read.

REDUCTIONS = {
    "sum": (torch.sum, 1),
    "mean": (torch.mean, 1),
    "mean along a dimension": (lambda x: x.mean(1), 1),
    "argmax": (torch.argmax, 1),
    "max along a dimension": (lambda x: x.max(1), 1),
    "all": (torch.all, 1),
    "norm: power and sum": (torch.linalg.vector_norm, 2),
    "var: sum, subtract, square, sum": (torch.var, 4),
    "std along a dimension": (lambda x: x.std(0), 4),
    "logsumexp: max, subtract, exp, sum": (lambda x: torch.logsumexp(x, 1), 4),
}


@pytest.mark.parametrize("case", REDUCTIONS)
def test_reduction_counts_its_input(case, count, meta):
    function, each = REDUCTIONS[case]
    assert count(function, meta(3, 4)).pointwise == each * 12


def test_distances_take_every_pair_of_rows(count, meta):
    # 15 pairs of width 4: subtract, power, add, and a root
    assert count(torch.cdist, meta(3, 4), meta(5, 4)).pointwise == 15 * (3 * 4 + 1)


# Losses: 12 elements in 3 rows.

LOSSES = {
    # name: (function, forward, backward)
    "l1: subtract, abs, sum": (F.l1_loss, 3, None),
    "mse: subtract, square, sum": (F.mse_loss, 3, 2),
    "smooth l1: d, |d|, select, d * d / 2, sum": (F.smooth_l1_loss, 6, 3),
    "huber: d, |d|, select, d * d / 2, sum": (F.huber_loss, 6, 3),
    # (t - 1) * log(1 - x) - t * log(x) is 7, and the sum; g * (x - t) / (x * (1 - x))
    "binary cross entropy": (F.binary_cross_entropy, 8, 5),
    # (1 - t) * x + log(1 + exp(-x)) is 7, and the sum
    "binary cross entropy of logits": (F.binary_cross_entropy_with_logits, 8, None),
}


@pytest.mark.parametrize("case", LOSSES)
def test_loss_counts_its_elements_and_not_its_one_output(case, count, meta):
    function, forward, backward = LOSSES[case]
    assert count(function, meta(3, 4), meta(3, 4)).pointwise == forward * 12
    if backward:
        target = meta(3, 4)
        loss = count(lambda x: function(x, target), meta(3, 4), phase="train", only="backward")
        assert loss.pointwise == backward * 12


def test_positive_weight_scales_the_logarithm(count, meta):
    def loss(x, target, weight):
        return F.binary_cross_entropy_with_logits(x, target, pos_weight=weight)

    # times 1 + (p - 1) * t: three more
    assert count(loss, meta(3, 4), meta(3, 4), meta(4)).pointwise == 11 * 12


def test_cross_entropy_is_a_log_softmax_and_one_addition_a_sample(count, meta):
    target = meta(3, dtype=LONG)
    assert count(F.cross_entropy, meta(3, 4), target).pointwise == 5 * 12 + 3
    backward = count(F.cross_entropy, meta(3, 4), target, phase="train", only="backward")
    assert backward.pointwise == 4 * 12 + 3


# Normalisation: (2, 4, 3, 3) has 72 elements.

NORMS = {
    # name: (module, FLOPs per element, backward)
    "layer norm": (nn.LayerNorm([4, 3, 3]), 5, 13),
    "layer norm, plain": (nn.LayerNorm([4, 3, 3], elementwise_affine=False), 4, 9),
    "group norm": (nn.GroupNorm(2, 4), 5, 13),
    "group norm, plain": (nn.GroupNorm(2, 4, affine=False), 4, 9),
    "batch norm": (nn.BatchNorm2d(4, track_running_stats=False), 5, 13),
    "batch norm, plain": (nn.BatchNorm2d(4, affine=False, track_running_stats=False), 4, 9),
    "instance norm": (nn.InstanceNorm2d(4), 4, 9),
}


@pytest.mark.parametrize("case", NORMS)
def test_norm_costs_five_with_a_learned_scale_and_four_without(case, count, meta):
    module, forward, backward = NORMS[case]
    x, again = (meta(2, 4, 3, 3).requires_grad_() for _ in range(2))
    assert count(module, x, phase="train", only="forward").pointwise == forward * 72
    assert count(module, again, phase="train", only="backward").pointwise == backward * 72


def test_batch_norm_with_stored_statistics_scales_and_shifts(count, meta):
    assert count(nn.BatchNorm2d(4), meta(2, 4, 3, 3)).pointwise == 2 * 72
    assert count(nn.BatchNorm2d(4, affine=False), meta(2, 4, 3, 3)).pointwise == 72


def test_batch_norm_in_training_counts_its_batches_too(count, meta):
    counted = count(nn.BatchNorm2d(4), meta(2, 4, 3, 3), phase="train", only="forward")
    assert counted.pointwise == 5 * 72 + 1


def test_frozen_batch_norm_has_a_plain_gradient(count, meta):
    mean, var = meta(4), meta(4)

    def frozen(x, w, b):
        return F.batch_norm(x, mean, var, w, b, training=False)

    # g * (w * rstd) 1; the normalised input 2, grad w 2, grad b 1
    inputs = meta(2, 4, 3, 3), meta(4), meta(4)
    assert count(frozen, *inputs, phase="train", only="backward").pointwise == 6 * 72


def test_rms_norm_squares_sums_and_scales(count, meta, price):
    # 8 elements in 2 rows: square, sum, scale, weight; epsilon and root for each row
    assert count(nn.RMSNorm(4), meta(2, 4)).pointwise == 4 * 8 + 2 * 2
    assert count(lambda x: F.rms_norm(x, (4,)), meta(2, 4)).pointwise == 3 * 8 + 2 * 2
    rows = [(2, 4), (2, 1)]
    assert price("aten._fused_rms_norm", rows, (2, 4), [4], (4,), 1e-5).pointwise == 4 * 8
    backward = price("aten._fused_rms_norm_backward", rows, (2, 4), (2, 4), [4], (2, 1), None, [])
    assert backward.pointwise == 6 * 8


def test_weight_norm_squares_sums_and_scales(price):
    assert price("aten._weight_norm_interface", [(3, 4), (3, 1)], (3, 4), (3, 1)).pointwise == 36


# Pooling: each output meets its window.

POOLS = {
    # name: (function, shape, forward, backward)
    "max 2 x 2": (lambda x: F.max_pool2d(x, 2), (1, 2, 4, 4), 8 * 4, 8),
    "max 2 x 2, no batch": (lambda x: F.max_pool2d(x, 2), (2, 4, 4), 8 * 4, 8),
    "max 3, one dimension": (lambda x: F.max_pool1d(x, 3), (1, 2, 6), 4 * 3, 4),
    "max 2, three dimensions": (lambda x: F.max_pool3d(x, 2), (1, 1, 4, 4, 4), 8 * 8, 8),
    "overlapping average 3 x 3": (lambda x: F.avg_pool2d(x, 3, 1), (1, 1, 4, 4), 4 * 9, 4 * 9),
    "average 3 x 2": (lambda x: F.avg_pool2d(x, (3, 2)), (1, 1, 3, 4), 2 * 6, 2 * 6),
    "average, kernel of one number": (lambda x: F.avg_pool2d(x, (2,)), (2, 4, 4), 8 * 4, 8 * 4),
    "average 2, one dimension": (lambda x: F.avg_pool1d(x, 2), (1, 2, 4), 4 * 2, 4 * 2),
    "average 2, three dimensions": (lambda x: F.avg_pool3d(x, 2), (1, 4, 4, 4), 8 * 8, 8 * 8),
    # 7 in 3: [0, 3), [2, 5), [4, 7); 5 in 2: [0, 3), [2, 5)
    "adaptive 7 to 3": (lambda x: F.adaptive_avg_pool1d(x, 3), (1, 2, 7), 2 * 9, 2 * 9),
    "adaptive 7 x 5 to 3 x 2": (
        lambda x: F.adaptive_avg_pool2d(x, (3, 2)),
        (1, 1, 7, 5),
        9 * 6,
        9 * 6,
    ),
    "adaptive max 7 x 5": (lambda x: F.adaptive_max_pool2d(x, (3, 2)), (1, 7, 5), 9 * 6, 6),
    "adaptive, three dimensions": (
        lambda x: F.adaptive_avg_pool3d(x, 2),
        (2, 4, 4, 4),
        2 * 64,
        2 * 64,
    ),
    "adaptive to one is a mean, its backward a division": (
        lambda x: F.adaptive_avg_pool2d(x, 1),
        (1, 2, 7, 7),
        98,
        98,
    ),
}


@pytest.mark.parametrize("case", POOLS)
def test_pooling_meets_each_element_of_each_window(case, count, meta):
    function, shape, forward, backward = POOLS[case]
    assert count(function, meta(*shape)).pointwise == forward
    assert count(function, meta(*shape), phase="train", only="backward").pointwise == backward


# Interpolation: n taps are n multiplications and n - 1 additions; backward 2 n.

SAMPLES = {
    # name: (shape, taps, outputs at twice the size)
    "linear": ((1, 2, 4), 2, 16),
    "bilinear": ((1, 2, 4, 4), 4, 128),
    "trilinear": ((1, 1, 2, 2, 2), 8, 64),
    "bicubic": ((1, 2, 4, 4), 16, 128),
}


@pytest.mark.parametrize("mode", SAMPLES)
def test_interpolation_weighs_its_taps(mode, count, meta):
    shape, taps, outputs = SAMPLES[mode]

    def twice(x):
        return F.interpolate(x, scale_factor=2, mode=mode)

    assert count(twice, meta(*shape)).pointwise == outputs * (2 * taps - 1)
    backward = count(twice, meta(*shape), phase="train", only="backward")
    assert backward.pointwise == outputs * 2 * taps


@pytest.mark.parametrize("shape", [(1, 2, 4), (1, 2, 4, 4), (1, 2, 4, 4, 4)])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact"])
def test_nearest_interpolation_copies_and_its_backward_adds(mode, shape, count, meta):
    def twice(x):
        return F.interpolate(x, scale_factor=2, mode=mode)

    assert count(twice, meta(*shape)).pointwise == 0
    outputs = 2 * 8 ** (len(shape) - 2)
    assert count(twice, meta(*shape), phase="train", only="backward").pointwise == outputs


@pytest.mark.parametrize(("mode", "taps"), [("bilinear", 4), ("bicubic", 8)])
def test_antialiasing_widens_the_window_with_the_scale(mode, taps, count, meta):
    def half(x):
        return F.interpolate(x, size=(4, 4), mode=mode, antialias=True)

    # 8 x 8 to 8 x 4, then to 4 x 4; half the size: twice the taps of one dimension
    outputs = 8 * 4 + 4 * 4
    assert count(half, meta(1, 1, 8, 8)).pointwise == outputs * (2 * taps - 1)
    backward = count(half, meta(1, 1, 8, 8), phase="train", only="backward")
    assert backward.pointwise == outputs * 2 * taps


@pytest.mark.parametrize(("mode", "taps"), [("bilinear", 4), ("nearest", 1), ("bicubic", 16)])
def test_grid_sample_finds_a_position_and_weighs_its_taps(mode, taps, count, meta):
    def sample(x, grid):
        return F.grid_sample(x, grid, mode, align_corners=False)

    inputs = meta(1, 2, 4, 4), meta(1, 3, 3, 2)
    # 18 outputs; 9 points of two coordinates, scale and shift each; one tap is only copied
    each = 2 * taps - 1 if taps > 1 else 0
    assert count(sample, *inputs).pointwise == 18 * each + 9 * 4
    # both gradients take 2 for each tap
    backward = count(sample, *inputs, phase="train", only="backward")
    assert backward.pointwise == 18 * 4 * taps + 9 * 4


def test_grid_sample_in_a_volume_has_eight_taps(count, meta):
    counted = count(
        lambda x, g: F.grid_sample(x, g, align_corners=False), meta(1, 1, 2, 2, 2), meta(1, 2, 2, 2, 3)
    )
    assert counted.pointwise == 8 * 15 + 8 * 6
