"""Multiply-accumulates of matrix products, convolutions, attention and recurrence, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

HALF = torch.bfloat16


# Matrix products: (m, k) x (k, n) takes m * k * n.

PRODUCTS = {
    # name: (function, shapes, macs, pointwise)
    "mm": (torch.mm, [(2, 3), (3, 4)], 2 * 3 * 4, 0),
    "addmm": (torch.addmm, [(4,), (2, 3), (3, 4)], 2 * 3 * 4, 2 * 4),
    "addmm, beta 0": (
        lambda c, a, b: torch.addmm(c, a, b, beta=0),
        [(4,), (2, 3), (3, 4)],
        2 * 3 * 4,
        0,
    ),
    "bmm": (torch.bmm, [(5, 2, 3), (5, 3, 4)], 5 * 2 * 3 * 4, 0),
    "baddbmm": (
        torch.baddbmm,
        [(5, 2, 4), (5, 2, 3), (5, 3, 4)],
        5 * 2 * 3 * 4,
        5 * 2 * 4,
    ),
    "baddbmm, beta 0": (
        lambda c, a, b: torch.baddbmm(c, a, b, beta=0),
        [(5, 2, 4), (5, 2, 3), (5, 3, 4)],
        5 * 2 * 3 * 4,
        0,
    ),
    # the batch is summed: five products (2, 3) x (3, 4) into one (2, 4)
    "addbmm": (torch.addbmm, [(2, 4), (5, 2, 3), (5, 3, 4)], 5 * 2 * 3 * 4, 2 * 4),
    "mv": (torch.mv, [(3, 4), (4,)], 3 * 4, 0),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)], 3 * 4, 3),
    "dot": (torch.dot, [(5,), (5,)], 5, 0),
    "einsum": (
        lambda a, b: torch.einsum("bij,bjk->bik", a, b),
        [(5, 2, 3), (5, 3, 4)],
        5 * 2 * 3 * 4,
        0,
    ),
    "a matrix by its own transpose": (lambda x: x @ x.T, [(3, 4)], 3 * 4 * 3, 0),
    "a batch by one matrix": (torch.matmul, [(5, 2, 3), (3, 4)], 5 * 2 * 3 * 4, 0),
}


@pytest.mark.parametrize("case", PRODUCTS)
def test_matrix_product_takes_every_triple_once(case, count, meta):
    function, shapes, macs, pointwise = PRODUCTS[case]
    counted = count(function, *(meta(*shape) for shape in shapes))
    assert (counted.macs, counted.pointwise) == (macs, pointwise)


def test_integer_product_counts_as_a_float_one(count, meta):
    a, b = meta(32, 16, dtype=torch.int8), meta(16, 8, dtype=torch.int8)
    assert count(torch._int_mm, a, b).macs == 32 * 16 * 8


def test_product_into_a_given_tensor_counts_the_same(count, meta):
    counted = count(lambda a, b, c: torch.mm(a, b, out=c), meta(2, 3), meta(3, 4), meta(2, 4))
    assert (counted.macs, counted.pointwise) == (2 * 3 * 4, 0)


def test_complex_product_takes_four_real_ones(count, meta):
    a, b = meta(2, 3, dtype=torch.complex64), meta(3, 4, dtype=torch.complex64)
    assert count(torch.mm, a, b).macs == 4 * (2 * 3 * 4)


def test_grouped_product_meets_one_matrix_per_row(count, meta):
    a, b = meta(16, 32, dtype=HALF), meta(2, 32, 48, dtype=HALF)
    counted = count(lambda *x: torch._grouped_mm(*x[:2], offs=x[2]), a, b, meta(2, dtype=torch.int32))
    assert counted.macs == 16 * 32 * 48  # 16 rows, each with the (32, 48) matrix of its group


def test_grouped_product_split_along_k_shares_k_among_the_groups(count, meta):
    a, b = meta(16, 32, dtype=HALF), meta(32, 48, dtype=HALF)
    counted = count(lambda *x: torch._grouped_mm(*x[:2], offs=x[2]), a, b, meta(2, dtype=torch.int32))
    assert counted.macs == 16 * 32 * 48
    assert counted.activations == 2 * 16 * 48  # one (16, 48) for each group


def test_fp8_product_multiplies_each_output_by_its_scale(price):
    cost = price("aten._scaled_mm", (2, 4), (2, 3), (3, 4), (), ())
    assert cost == (2 * 3 * 4, 2 * 4, 2 * 4)


def test_fused_activation_adds_its_own_flops(price):
    shapes = (4,), (2, 3), (3, 4)
    # 8 outputs: bias 1, relu 1, gelu 5
    assert price("aten._addmm_activation", (2, 4), *shapes) == (24, 8 + 8, 8)
    assert price("aten._addmm_activation", (2, 4), *shapes, use_gelu=True) == (24, 8 + 40, 8)


def test_linear_counts_leading_dimensions_as_rows(count, meta):
    counted = count(nn.Linear(4, 5), meta(2, 3, 4))
    assert (counted.macs, counted.pointwise) == (2 * 3 * 4 * 5, 2 * 3 * 5)
    assert counted.activations == 2 * 3 * 5


def test_linear_function_with_a_bare_parameter_is_counted(count, meta):
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, 4))

        def forward(self, x):
            return F.linear(x, self.weight)

    assert count(Bare(), meta(2, 4)).macs == 2 * 4 * 5


def test_linear_training_step_takes_three_products_and_the_first_layer_two(count, meta):
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6))
    first, second = 2 * 4 * 5, 2 * 5 * 6
    assert count(model, meta(2, 4), phase="train", only="forward").macs == first + second
    # the model's input needs no gradient: the first layer has its weight's only
    assert count(model, meta(2, 4), phase="train", only="backward").macs == first + 2 * second


def test_bilinear_layer_meets_every_pair_of_inputs_for_each_output(count, meta):
    counted = count(nn.Bilinear(3, 4, 5), meta(2, 3), meta(2, 4))
    assert counted.macs == 2 * 5 * 3 * 4
    assert counted.pointwise == 2 * 5 * 3 * 4 + 2 * 5  # x * W first, and the bias


@pytest.mark.parametrize("name", ["aten.linear", "aten.mkldnn_linear", "mkldnn._linear_pointwise"])
def test_fused_linear_kernel_counts_as_the_plain_one(name, price):
    assert price(name, (2, 3, 5), (2, 3, 4), (5, 4), (5,)) == (2 * 3 * 4 * 5, 30, 30)
    assert price(name, (2, 3, 5), (2, 3, 4), (5, 4), None).pointwise == 0


def test_fused_linear_backward_has_the_gradients_of_its_mask(price):
    x, grad, weight = (2, 4), (2, 5), (5, 4)
    everything = price("aten.linear_backward", [x, weight, (5,)], x, grad, weight, [True] * 3)
    assert everything == (2 * (2 * 4 * 5), 2 * 5, 0)
    one = price("aten.linear_backward", [None, weight, None], x, grad, weight, [False, True, False])
    assert one == (2 * 4 * 5, 0, 0)


def test_quantised_linear_requantises_each_output(price):
    assert price("quantized.linear", (2, 5), (2, 4), (5, 4)) == (2 * 4 * 5, 10, 10)


# Convolutions.

CONVOLUTIONS = {
    # name: (module, input, output elements, elements that each of them meets)
    "1d": (nn.Conv1d(2, 3, 5), (2, 2, 9), 2 * 3 * 5, 2 * 5),
    "2d": (nn.Conv2d(2, 3, 3), (1, 2, 7, 7), 3 * 5 * 5, 2 * 9),
    "3d": (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), 2 * 2 * 2 * 2, 8),
    "padded: zeros count as data": (nn.Conv2d(2, 3, 3, padding=1), (1, 2, 7, 7), 3 * 7 * 7, 2 * 9),
    "strided": (nn.Conv2d(2, 3, 3, 2, 1), (1, 2, 8, 8), 3 * 4 * 4, 2 * 9),
    "dilated": (nn.Conv2d(2, 3, 3, dilation=2), (1, 2, 7, 7), 3 * 3 * 3, 2 * 9),
    "grouped": (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 5, 5), 8 * 3 * 3, 2 * 9),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (1, 4, 5, 5), 4 * 3 * 3, 9),
    "no batch": (nn.Conv2d(2, 3, 3), (2, 7, 7), 3 * 5 * 5, 2 * 9),
    "same padding": (nn.Conv2d(2, 3, 3, padding="same"), (1, 2, 7, 7), 3 * 7 * 7, 2 * 9),
}


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_meets_channels_times_kernel_for_each_output(case, count, meta):
    module, shape, outputs, taps = CONVOLUTIONS[case]
    counted = count(module, meta(*shape))
    assert counted.macs == outputs * taps
    assert counted.pointwise == counted.activations == outputs  # the bias


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_first_convolution_has_a_weight_gradient_and_no_input_gradient(case, count, meta):
    module, shape, outputs, taps = CONVOLUTIONS[case]
    counted = count(module, meta(*shape), phase="train", only="backward")
    # torch's own formula is groups times too large here
    assert (counted.macs, counted.pointwise) == (outputs * taps, outputs)
    assert counted.activations == 0


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_later_convolution_has_both_gradients(case, count, meta):
    module, shape, outputs, taps = CONVOLUTIONS[case]
    x = meta(*shape).requires_grad_()
    assert count(module, x, phase="train", only="backward").macs == 2 * outputs * taps


TRANSPOSED = {
    # name: (module, input, input elements, elements that each of them spreads over)
    "1d": (nn.ConvTranspose1d(2, 3, 4, bias=False), (1, 2, 5), 2 * 5, 3 * 4),
    "2d": (nn.ConvTranspose2d(16, 32, 4, 2, 1, bias=False), (1, 16, 8, 8), 16 * 64, 32 * 16),
    "3d": (nn.ConvTranspose3d(1, 2, 2, bias=False), (1, 1, 3, 3, 3), 27, 2 * 8),
    "grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), (1, 4, 5, 5), 100, 3 * 9),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolution_counts_each_input_element_once_per_kernel_element(case, count, meta):
    module, shape, inputs, taps = TRANSPOSED[case]
    x = meta(*shape).requires_grad_()
    assert count(module, meta(*shape)).macs == inputs * taps
    assert count(module, x, phase="train", only="backward").macs == 2 * inputs * taps


def test_transposed_convolution_of_a_gan_layer_takes_524288(count, meta):
    assert count(nn.ConvTranspose2d(16, 32, 4, 2, 1), meta(1, 16, 8, 8)).macs == 524_288


def test_convolution_called_as_a_function_is_counted(count, meta):
    counted = count(F.conv2d, meta(1, 2, 7, 7), meta(3, 2, 3, 3))
    assert (counted.macs, counted.pointwise) == (75 * 18, 0)


@pytest.mark.parametrize(("masked", "each"), [(False, 7), (True, 8)])
def test_deformable_convolution_samples_each_tap_and_then_convolves(masked, each, count, meta):
    def layer(x, offset, weight, mask):
        return deform_conv2d(x, offset, weight, padding=1, mask=mask if masked else None)

    inputs = meta(1, 2, 4, 4), meta(1, 18, 4, 4), meta(3, 2, 3, 3), meta(1, 9, 4, 4)
    counted = count(layer, *inputs)
    assert counted.macs == 3 * 4 * 4 * (2 * 9)
    # bilinear 7, mask 1, for 2 channels x 9 taps x 16 positions; the bias is always added
    assert counted.pointwise == 2 * 9 * 16 * each + 48
    if masked:  # else the mask takes no part in the backward
        assert count(layer, *inputs, phase="train", only="backward").macs == 2 * counted.macs


@pytest.mark.parametrize("name", ["cudnn_convolution", "mkldnn_convolution", "_conv_depthwise2d"])
def test_fused_convolution_kernel_counts_as_the_plain_one(name, price):
    assert price(f"aten.{name}", (1, 3, 5, 5), (1, 2, 7, 7), (3, 2, 3, 3)).macs == 75 * 18


@pytest.mark.parametrize(
    ("name", "requantised"), [("aten.cudnn_convolution_transpose", 0), ("quantized.conv_transpose2d", 1)]
)
def test_fused_transposed_kernel_counts_as_the_plain_one(name, requantised, price):
    cost = price(name, (1, 32, 16, 16), (1, 16, 8, 8), (16, 32, 4, 4))
    assert cost == (524_288, requantised * 32 * 256, 32 * 256)


# Attention: q (N, heads, L, E), k and v (N, heads, S, E): L * S * E twice for each head.

Q = (1, 12, 64, 64)
SCORES = 12 * 64 * 64
DENSE = 2 * 12 * 64 * 64 * 64
SCALED = 2 * 12 * 64 * 64  # q and k are each multiplied by the fourth root


def test_attention_takes_scores_and_weighted_sum(count, meta):
    counted = count(F.scaled_dot_product_attention, meta(*Q), meta(*Q), meta(*Q))
    assert counted.macs == DENSE == 6_291_456
    assert counted.pointwise == SCALED + 5 * SCORES  # softmax is 5
    assert counted.activations == SCORES + 12 * 64 * 64


def test_mask_adds_one_to_each_score(count, meta):
    counted = count(F.scaled_dot_product_attention, meta(*Q), meta(*Q), meta(*Q), meta(64, 64))
    assert (counted.macs, counted.pointwise) == (DENSE, SCALED + 6 * SCORES)


def test_causal_attention_is_counted_dense(count, meta):
    def causal(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    assert count(causal, meta(*Q), meta(*Q), meta(*Q)).macs == DENSE


def test_grouped_query_attention_serves_every_query_head(count, meta):
    def grouped(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    k = meta(1, 2, 5, 8)
    assert count(grouped, meta(1, 4, 3, 8), k, k).macs == 2 * 4 * 3 * 5 * 8


FUSED = {
    "_scaled_dot_product_flash_attention": (),
    "_scaled_dot_product_flash_attention_for_cpu": (),
    "_scaled_dot_product_efficient_attention": (None, False),
    "_scaled_dot_product_cudnn_attention": (None, False),
    "_scaled_dot_product_fused_attention_overrideable": (),
    "scaled_dot_product_attention": (),
    "flex_attention": (),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_attention_kernel_counts_as_the_math_one(name, count, meta, price):
    q, k, v = (2, 4, 6, 8), (2, 4, 10, 8), (2, 4, 10, 3)
    math = count(F.scaled_dot_product_attention, meta(*q), meta(*k), meta(*v))
    assert math.macs == 2 * 4 * 6 * 10 * (8 + 3)
    space = "higher_order" if name == "flex_attention" else "aten"
    fused = price(f"{space}.{name}", [(2, 4, 6, 3)], q, k, v, *FUSED[name])
    assert fused == (math.macs, math.pointwise, math.activations)


@pytest.mark.parametrize("name", ["flash_attention", "efficient_attention", "cudnn_attention"])
def test_attention_backward_takes_four_products(name, count, meta, price):
    math = count(F.scaled_dot_product_attention, meta(*Q), meta(*Q), meta(*Q), phase="train", only="backward")
    assert math.macs == 2 * DENSE
    assert math.pointwise == 4 * SCORES + SCALED  # softmax backward is 4
    fused = price(f"aten._scaled_dot_product_{name}_backward", [Q, Q, Q], Q, Q, Q, Q)
    assert (fused.macs, fused.pointwise) == (math.macs, math.pointwise)


def test_packed_attention_has_its_heads_third(price):
    cost = price("aten._flash_attention_forward", [(2, 6, 4, 8)], (2, 6, 4, 8), *[(2, 10, 4, 8)] * 2)
    assert cost.macs == 2 * 2 * 4 * 6 * 10 * 8


def test_attention_module_with_one_head_takes_240_million(count, meta):
    x = meta(1, 1000, 100)
    # four projections of 1000 x 100 x 100, two products of 1000 x 1000 x 100
    expected = 4 * 1000 * 100 * 100 + 2 * 1000 * 1000 * 100
    assert count(nn.MultiheadAttention(100, 1, batch_first=True), x, x, x).macs == expected
    assert expected == 240_000_000


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_attention_module_has_no_fast_path_in_evaluation(phase, count, meta):
    x = meta(2, 10, 512)
    model = nn.MultiheadAttention(512, 8, batch_first=True)
    # four projections of 20 rows; 2 samples, 8 heads, 10 x 10 scores of width 64
    expected = 4 * 20 * 512 * 512 + 2 * 2 * 8 * 10 * 10 * 64
    assert count(model, x, x, x, phase=phase, only="forward").macs == expected


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_encoder_layer_has_no_fast_path_in_evaluation(phase, count, meta):
    model = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    # 10 rows: four projections, two products of 5 x 5 x 8 in 2 x 4 heads, 32 x 64 and back
    expected = 4 * 10 * 32 * 32 + 2 * 2 * 4 * 25 * 8 + 2 * 10 * 32 * 64
    assert count(model, meta(2, 5, 32), phase=phase, only="forward").macs == expected


# Recurrence.

GATES = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4}
MODE = {nn.RNN: 1, nn.LSTM: 2, nn.GRU: 3}
FLOPS = {nn.RNN: 2, nn.GRU: 16, nn.LSTM: 22}


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_recurrent_layer_meets_its_matrices_at_every_step(kind, bidirectional, device, count, price):
    directions, hidden, steps, batch = 1 + bidirectional, 3, 4, 2
    model = kind(3, hidden, 2, bidirectional=bidirectional)  # input as wide as hidden, on purpose
    counted = count(model, torch.zeros(steps, batch, 3, device=device), device=device)
    rows = GATES[kind] * hidden
    # layer 1 reads 3 features, layer 2 the outputs of all directions
    weights = directions * rows * ((3 + hidden) + (directions * hidden + hidden))
    assert counted.macs == steps * batch * weights
    # 2 layers: two biases, and the gates, for each hidden unit
    cell = 2 * rows + FLOPS[kind] * hidden
    assert counted.pointwise == steps * batch * 2 * directions * cell

    sizes = [tuple(p.shape) for p in model.parameters()]
    x, state = (steps, batch, 3), (2 * directions, batch, hidden)
    rest = (state, state, MODE[kind], hidden, 0, 2, False, 0.0, False, bidirectional)
    fused = price("aten._cudnn_rnn", [x], x, sizes, 4, None, *rest)
    assert fused == (counted.macs, counted.pointwise, counted.activations)
    packed = price("aten._cudnn_rnn", [x], (steps * batch, 3), sizes, 4, None, *rest)
    assert packed == fused


def test_fused_lstm_layer_counts_as_the_stepwise_one(count, meta, price):
    stepwise = count(nn.LSTM(5, 3), meta(4, 2, 5))
    assert stepwise.macs == 4 * 2 * 12 * (5 + 3)
    fused = price("aten.mkldnn_rnn_layer", [(4, 2, 3)], (4, 2, 5), (12, 5), (12, 3), (12,), (12,))
    assert fused == (stepwise.macs, stepwise.pointwise, stepwise.activations)


@pytest.mark.parametrize(("kind", "rows", "flops"), [("lstm", 4 * 5, 22), ("gru", 3 * 5, 16)])
def test_fused_cell_adds_two_biases_and_its_gates(kind, rows, flops, price):
    gates, state = (2, rows), (2, 5)
    cost = price(f"aten._thnn_fused_{kind}_cell", [state], gates, gates, state, (rows,), (rows,))
    assert (cost.macs, cost.pointwise) == (0, 2 * 2 * rows + flops * 10)
