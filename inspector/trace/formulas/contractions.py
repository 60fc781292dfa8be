"""Operators that multiply and accumulate: convolutions, matrix products, attention, recurrence."""

from __future__ import annotations

from math import prod
from typing import Any

from inspector.trace.formulas import Cost, first, formula
from inspector.trace.formulas.pointwise import GATE_FLOPS, SAMPLE_FLOPS, SOFTMAX, SOFTMAX_BACKWARD
from inspector.trace.record import TensorSpec


def contraction(macs: int, outputs: Any, pointwise: int = 0) -> Cost:
    return Cost(macs, pointwise, first(outputs).numel)


# Matrix products. (m, k) x (k, n) takes m * k * n multiply-accumulates.


@formula("aten.mm", "aten._int_mm", "aten._sparse_mm", "aten._weight_int8pack_mm")
def mm(out: Any, a: TensorSpec, b: TensorSpec, *_: Any, **__: Any) -> Cost:
    return contraction(first(out).numel * a.shape[-1], out)


@formula("aten.bmm")
def bmm(out: Any, a: TensorSpec, b: TensorSpec, *_: Any, **__: Any) -> Cost:
    return contraction(first(out).numel * a.shape[-1], out)


@formula("aten.mv")
def mv(out: Any, matrix: TensorSpec, vector: TensorSpec) -> Cost:
    return contraction(matrix.numel, out)


@formula("aten.dot", "aten.vdot")
def dot(out: Any, a: TensorSpec, b: TensorSpec) -> Cost:
    return contraction(a.numel, out)


@formula("aten.addmm", "aten.baddbmm")
def addmm(
    out: Any, bias: TensorSpec, a: TensorSpec, b: TensorSpec, *_: Any, beta: Any = 1, **__: Any
) -> Cost:
    added = first(out).numel if beta != 0 else 0
    return contraction(first(out).numel * a.shape[-1], out, added)


@formula("aten._addmm_activation")
def addmm_activation(
    out: Any, bias: TensorSpec, a: TensorSpec, b: TensorSpec, *, use_gelu: bool = False, **rest: Any
) -> Cost:
    """relu 1, gelu 5 for each output element."""
    product = addmm(out, bias, a, b, **rest)
    return product._replace(pointwise=product.pointwise + first(out).numel * (5 if use_gelu else 1))


@formula("aten.addbmm")
def addbmm(
    out: Any, bias: TensorSpec, a: TensorSpec, b: TensorSpec, *, beta: Any = 1, **_: Any
) -> Cost:
    """Sums the batch: a (n, r, k), b (n, k, c), out (r, c)."""
    added = first(out).numel if beta != 0 else 0
    return contraction(a.numel * b.shape[-1], out, added)


@formula("aten.addmv")
def addmv(
    out: Any, bias: TensorSpec, matrix: TensorSpec, vector: TensorSpec, *, beta: Any = 1, **_: Any
) -> Cost:
    """matrix (m, k), vector (k)."""
    return contraction(matrix.numel, out, first(out).numel if beta != 0 else 0)


@formula("aten._scaled_mm", "aten._scaled_mm_v2")
def scaled_mm(out: Any, a: TensorSpec, b: TensorSpec, *_: Any, **__: Any) -> Cost:
    """FP8: the two scales are one multiplication per output element."""
    return contraction(first(out).numel * a.shape[-1], out, first(out).numel)


@formula("aten._grouped_mm", "aten._scaled_grouped_mm")
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
def linear_backward(
    out: Any, x: TensorSpec, grad: TensorSpec, weight: TensorSpec, mask: list[bool]
) -> Cost:
    products = int(mask[0]) + int(mask[1])
    return Cost(products * grad.numel * x.shape[-1], grad.numel if mask[2] else 0)


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
    sizes = []
    for position in range(len(a.shape) + len(expand1)):
        sizes.append(
            max(
                _expanded(a.shape, expand1, position),
                _expanded(b.shape, expand2, position),
                _expanded(c.shape, expand3, position),
            )
        )
    full = prod(sizes)
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
)
def conv(out: Any, x: TensorSpec, weight: TensorSpec, *args: Any, **kwargs: Any) -> Cost:
    bias = kwargs.get("bias", next((a for a in args if isinstance(a, TensorSpec)), None))
    added = first(out).numel if bias is not None else 0
    return contraction(conv_macs(x, weight, first(out), False), out, added)


@formula("aten.cudnn_convolution", "aten.miopen_convolution")
def cudnn_convolution(out: Any, x: TensorSpec, weight: TensorSpec, *_: Any, **__: Any) -> Cost:
    return contraction(conv_macs(x, weight, first(out), False), out)


@formula("aten.cudnn_convolution_transpose")
def cudnn_convolution_transpose(
    out: Any, x: TensorSpec, weight: TensorSpec, *_: Any, **__: Any
) -> Cost:
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
    kernel = prod(weight.shape[2:])
    taps = y.shape[0] * x.shape[1] * kernel * prod(y.shape[2:])
    masked = bool(rest and rest[-1])
    added = y.numel if isinstance(bias, TensorSpec) and bias.numel else 0
    pointwise = taps * (SAMPLE_FLOPS["bilinear"] + masked) + added
    return contraction(conv_macs(x, weight, y, False), out, pointwise)


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
    kernel = prod(weight.shape[2:])
    taps = grad.shape[0] * x.shape[1] * kernel * prod(grad.shape[2:])
    masked = bool(rest and rest[-1])
    pointwise = 2 * taps * (SAMPLE_FLOPS["bilinear"] + masked) + grad.numel
    return Cost(2 * conv_macs(x, weight, grad, False), pointwise)


# Attention: q (..., heads, L, E), k (..., heads, S, E), v (..., heads, S, Ev).
# Scores take L * S * E a head, the weighted sum L * S * Ev; masks do not shrink the count.


def attention(
    q: TensorSpec, k: TensorSpec, v: TensorSpec, mask: bool = False, causal: bool = False
) -> Cost:
    """Dense attention, written out as the math kernel does it: q and k are each scaled, the mask
    (a causal one too) is added, then softmax. Grouped key and value heads serve all query heads."""
    *batch, length, width = q.shape
    source, value_width = k.shape[-2], v.shape[-1]
    scores = prod(batch) * length * source
    pointwise = q.numel + prod(batch) * source * width + scores * (SOFTMAX + (mask or causal))
    outputs = prod(batch) * length * value_width
    return Cost(scores * (width + value_width), pointwise, scores + outputs)


def attention_backward(grad: TensorSpec, q: TensorSpec, k: TensorSpec, v: TensorSpec) -> Cost:
    """Gradients of v, scores, q and k: four products. Fused kernels compute the scores again, which
    the definition does not need: that fifth product is not counted, so every kernel agrees."""
    *batch, length, width = q.shape
    source, value_width = k.shape[-2], v.shape[-1]
    scores = prod(batch) * length * source
    pointwise = scores * SOFTMAX_BACKWARD + q.numel + prod(batch) * source * width
    return Cost(2 * scores * (width + value_width), pointwise)


@formula(
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
)
def flash_attention(
    out: Any,
    q: TensorSpec,
    k: TensorSpec,
    v: TensorSpec,
    dropout: float = 0.0,
    is_causal: bool = False,
    *_: Any,
    attn_mask: Any = None,
    **__: Any,
) -> Cost:
    return attention(q, k, v, attn_mask is not None, is_causal)


@formula(
    "aten.scaled_dot_product_attention",
    "aten._scaled_dot_product_attention_math",
    "aten._scaled_dot_product_fused_attention_overrideable",
)
def masked_attention(
    out: Any,
    q: TensorSpec,
    k: TensorSpec,
    v: TensorSpec,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *_: Any,
    **__: Any,
) -> Cost:
    return attention(q, k, v, mask is not None, is_causal)


@formula("aten._scaled_dot_product_efficient_attention")
def efficient_attention(
    out: Any,
    q: TensorSpec,
    k: TensorSpec,
    v: TensorSpec,
    bias: Any,
    lse: bool,
    dropout: float = 0.0,
    causal: bool = False,
    **_: Any,
) -> Cost:
    return attention(q, k, v, bias is not None, causal)


@formula("aten._scaled_dot_product_cudnn_attention")
def cudnn_attention(
    out: Any,
    q: TensorSpec,
    k: TensorSpec,
    v: TensorSpec,
    bias: Any,
    lse: bool,
    dropout: float = 0.0,
    causal: bool = False,
    *_: Any,
    **__: Any,
) -> Cost:
    return attention(q, k, v, bias is not None, causal)


@formula(
    "aten._scaled_dot_product_flash_attention_backward",
    "aten._scaled_dot_product_flash_attention_for_cpu_backward",
    "aten._scaled_dot_product_efficient_attention_backward",
    "aten._scaled_dot_product_cudnn_attention_backward",
    "aten._scaled_dot_product_fused_attention_overrideable_backward",
)
def fused_attention_backward(
    out: Any, grad: TensorSpec, q: TensorSpec, k: TensorSpec, v: TensorSpec, *_: Any, **__: Any
) -> Cost:
    return attention_backward(grad, q, k, v)


@formula("aten._flash_attention_forward", "aten._efficient_attention_forward")
def packed_attention(
    out: Any, q: TensorSpec, k: TensorSpec, v: TensorSpec, *args: Any, **kwargs: Any
) -> Cost:
    """Heads third: q (batch, L, heads, E). Packed sequences of unknown lengths are one sequence
    here, an upper bound."""
    return attention(*(_heads_second(t) for t in (q, k, v)))


def _heads_second(t: TensorSpec) -> TensorSpec:
    shape = t.shape if len(t.shape) == 4 else (1, *t.shape)
    return TensorSpec((shape[0], shape[2], shape[1], shape[3]), t.dtype)


@formula("higher_order.flex_attention")
def flex_attention(out: Any, q: TensorSpec, k: TensorSpec, v: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Dense, and without the user's score function, whose operators are its own."""
    return attention(q, k, v)


# Recurrence, one fused call. weight_ih (gates * hidden, input), weight_hh (gates * hidden, hidden).


def _rnn(weights: list[TensorSpec], steps: int, cells: int, hidden: int, gate_flops: int) -> Cost:
    """`weights` of all cells (layers times directions): each matrix meets every time step once."""
    matrices = [w for w in weights if len(w.shape) == 2]
    biases = [w for w in weights if len(w.shape) == 1]
    macs = steps * sum(w.numel for w in matrices)
    pointwise = steps * sum(b.numel for b in biases) + steps * cells * gate_flops * hidden
    return Cost(macs, pointwise, steps * sum(w.shape[0] for w in matrices))


@formula("aten._cudnn_rnn")
def cudnn_rnn(
    out: Any,
    x: TensorSpec,
    weights: list[TensorSpec],
    stride0: int,
    weight_buf: Any,
    hx: Any,
    cx: Any,
    mode: int,
    hidden: int,
    proj: int,
    layers: int,
    batch_first: bool,
    dropout: float,
    train: bool,
    bidirectional: bool,
    *_: Any,
) -> Cost:
    """mode: 0 relu, 1 tanh, 2 LSTM, 3 GRU. x (L, N, input), or packed (sum of lengths, input)."""
    gates = ("relu", "tanh", "lstm", "gru")[mode]
    cells = layers * (2 if bidirectional else 1)
    return _rnn(weights, prod(x.shape[:-1]), cells, hidden, GATE_FLOPS[gates])


@formula("aten.mkldnn_rnn_layer")
def mkldnn_rnn_layer(
    out: Any, x: TensorSpec, w0: TensorSpec, w1: TensorSpec, b0: TensorSpec, b1: TensorSpec, *_: Any
) -> Cost:
    """One LSTM layer in one direction, x (L, N, input)."""
    return _rnn([w0, w1, b0, b1], prod(x.shape[:-1]), 1, w1.shape[1], GATE_FLOPS["lstm"])


@formula("aten._cdist_forward", "aten._euclidean_dist")
def cdist(out: Any, a: TensorSpec, b: TensorSpec, *_: Any) -> Cost:
    """Distances of all pairs of rows: subtract, power, add for each coordinate, then the root."""
    pairs = first(out).numel
    return Cost(0, pairs * (3 * a.shape[-1] + 1))


@formula("aten._thnn_fused_lstm_cell")
def fused_lstm_cell(
    out: Any, gates: TensorSpec, hidden_gates: TensorSpec, cx: TensorSpec, *biases: Any
) -> Cost:
    """gates (N, 4 * hidden): the products ran before, the biases are added here."""
    return Cost(0, _cell_biases(gates, biases) + cx.numel * GATE_FLOPS["lstm"])


@formula("aten._thnn_fused_gru_cell")
def fused_gru_cell(
    out: Any, gates: TensorSpec, hidden_gates: TensorSpec, hx: TensorSpec, *biases: Any
) -> Cost:
    """gates (N, 3 * hidden), as the LSTM cell."""
    return Cost(0, _cell_biases(gates, biases) + hx.numel * GATE_FLOPS["gru"])


def _cell_biases(gates: TensorSpec, biases: tuple[Any, ...]) -> int:
    return gates.numel * sum(1 for bias in biases if bias is not None)
