"""Scaled dot-product attention by every kernel: the same counts.

Attention: q (..., heads, L, E), k (..., heads, S, E), v (..., heads, S, Ev).
Scores take L * S * E a head, the weighted sum L * S * Ev; masks do not shrink the count.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from inspector.tracing.formulas.pointwise import SOFTMAX, SOFTMAX_BACKWARD
from inspector.tracing.formulas.registry import Cost, formula
from inspector.tracing.record import TensorSpec


def attention(q: TensorSpec, k: TensorSpec, v: TensorSpec, mask: bool = False, causal: bool = False) -> Cost:
    """Dense attention, written out as the math kernel does it: q and k are each scaled, the mask
    (a causal one too) is added, then softmax. Grouped key and value heads serve all query heads."""
    *batch, length, width = q.shape
    source, value_width = k.shape[-2], v.shape[-1]
    scores = prod(batch) * length * source
    pointwise = q.numel + prod(batch) * source * width + scores * (SOFTMAX + (mask or causal))
    outputs = prod(batch) * length * value_width
    return Cost(scores * (width + value_width), pointwise, scores + outputs)


@formula(
    "aten._scaled_dot_product_flash_attention_backward",
    "aten._scaled_dot_product_flash_attention_for_cpu_backward",
    "aten._scaled_dot_product_efficient_attention_backward",
    "aten._scaled_dot_product_cudnn_attention_backward",
    "aten._scaled_dot_product_fused_attention_overrideable_backward",
)
def attention_backward(
    out: Any, grad: TensorSpec, q: TensorSpec, k: TensorSpec, v: TensorSpec, *_: Any, **__: Any
) -> Cost:
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


@formula(
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
)
def biased_attention(
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


@formula("aten._flash_attention_forward", "aten._efficient_attention_forward")
def packed_attention(
    out: Any, q: TensorSpec, k: TensorSpec, v: TensorSpec, *args: Any, **kwargs: Any
) -> Cost:
    """Heads third: q (batch, L, heads, E). Packed sequences of unknown lengths are one sequence
    here, an upper bound."""
    return attention(_heads_second(q), _heads_second(k), _heads_second(v))


def _heads_second(t: TensorSpec) -> TensorSpec:
    shape = t.shape if len(t.shape) == 4 else (1, *t.shape)
    return TensorSpec((shape[0], shape[2], shape[1], shape[3]), t.dtype)


@formula("higher_order.flex_attention")
def flex_attention(
    out: Any,
    q: TensorSpec,
    k: TensorSpec,
    v: TensorSpec,
    functions: Sequence[int] | None = (0, 0),
    masked: bool = False,
    *_: Any,
) -> Cost | None:
    """Dense attention, and the MACs and pointwise FLOPs of the user's score and mask functions, as often as
    they run on all scores; a mask function that looks at no head runs once for all. To apply the mask takes
    one operation a score."""
    return _with(attention(q, k, v, masked), functions)


@formula("higher_order.flex_attention_backward")
def flex_attention_backward(
    out: Any,
    grad: TensorSpec,
    q: TensorSpec,
    k: TensorSpec,
    v: TensorSpec,
    functions: Sequence[int] | None = (0, 0),
    *_: Any,
) -> Cost | None:
    return _with(attention_backward(out, grad, q, k, v), functions)


def _with(cost: Cost, functions: Sequence[int] | None) -> Cost | None:
    if functions is None:
        return None
    return cost._replace(macs=cost.macs + functions[0], pointwise=cost.pointwise + functions[1])
