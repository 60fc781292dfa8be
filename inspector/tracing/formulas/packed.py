"""Products with packed weights (kernels of torch, torchao, bitsandbytes and quanto), and packing itself.

A weight of in x out elements takes n * in * out multiply-accumulates on n rows, however it is stored:
those of the float layer that it replaces, 2:4 sparsity included. The sizes come from input and output, or
from an argument: the packed tensor has a shape of its own. What the kernel does to turn codes into numbers is
pointwise work, once for each element of the weight: 1 for code * scale, 2 with a zero point.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2
from typing import Any

from inspector.tracing.formulas.contractions import contraction
from inspector.tracing.formulas.registry import Cost, cost, first, formula
from inspector.tracing.record import TensorSpec

QUANTIZE, DEQUANTIZE = 4, 2
"""Scale, round, shift, clamp; shift, scale: as for `aten.quantize_per_tensor`."""


def _added(bias: Any, outputs: int) -> int:
    return outputs if isinstance(bias, TensorSpec) else 0


@formula(
    "aten._weight_int4pack_mm",
    "aten._weight_int4pack_mm_for_cpu",
    "aten._weight_int4pack_mm_with_scales_and_zeros",
)
def weight_int4pack_mm(out: Any, x: TensorSpec, packed: TensorSpec, *_: Any) -> Cost:
    """x (n, k), out (n, m); the weight has m * k elements, each with a scale and a zero point."""
    y = first(out)
    return contraction(y.numel * x.shape[-1], out, DEQUANTIZE * y.shape[-1] * x.shape[-1])


@formula("aten._dyn_quant_matmul_4bit")
def dyn_quant_matmul_4bit(
    out: Any, x: TensorSpec, packed: TensorSpec, block_size: int, inputs: int, outputs: int
) -> Cost:
    """x (n, k) is quantised to int8; integers are multiplied, and each output element scaled."""
    y = first(out)
    return contraction(y.numel * inputs, out, QUANTIZE * x.numel + y.numel)


@formula("bitsandbytes.gemm_4bit")
def gemm_4bit(
    out: Any,
    x: TensorSpec,
    packed: TensorSpec,
    shape: Sequence[int],
    absmax: TensorSpec,
    blocksize: int,
    quant_type: str,
    bias: Any = None,
    absmax_8bit: Any = None,
    *_: Any,
    **__: Any,
) -> Cost:
    """x (..., k) with a weight of `shape` (m, k): code * scale for each element; where the scales are 8-bit
    codes themselves, scale and offset for each of them. QLoRA, Dettmers et al. 2023, section 3."""
    product = gemv_4bit(out, x, packed, shape)
    scales = DEQUANTIZE * absmax_8bit.numel if isinstance(absmax_8bit, TensorSpec) else 0
    added = scales + _added(bias, product.activations)
    return product._replace(pointwise=product.pointwise + added)


@formula("bitsandbytes.gemv_4bit")
def gemv_4bit(out: Any, x: TensorSpec, packed: TensorSpec, shape: Sequence[int], *_: Any, **__: Any) -> Cost:
    rows, (outputs, inputs) = x.numel // x.shape[-1], shape
    return Cost(rows * inputs * outputs, inputs * outputs, rows * outputs)


@formula("bitsandbytes.int8_linear_matmul")
def int8_linear_matmul(out: Any, x: TensorSpec, weight: TensorSpec, *_: Any) -> Cost:
    """x (..., k), weight (m, k)."""
    macs = x.numel * weight.shape[0]
    return Cost(macs, 0, macs // x.shape[-1])


@formula("torchao.int_scaled_matmul")
def int_scaled_matmul(out: Any, x: TensorSpec, weight: TensorSpec, scales: TensorSpec) -> Cost:
    return contraction(first(out).numel * x.shape[-1], out, first(out).numel)


@formula("bitsandbytes.int8_scaled_mm")
def int8_scaled_mm(
    out: Any, x: TensorSpec, weight: Any, rows: Any, columns: Any, bias: Any = None, *_: Any, **__: Any
) -> Cost:
    """Each output element is scaled for its row and its column."""
    outputs = first(out).numel
    return contraction(outputs * x.shape[-1], out, 2 * outputs + _added(bias, outputs))


@formula("bitsandbytes.int8_mixed_scaled_mm")
def int8_mixed_scaled_mm(
    out: Any,
    x: TensorSpec,
    codes: Any,
    weight: Any,
    rows: Any,
    columns: Any,
    outliers: Any = None,
    bias: Any = None,
) -> Cost:
    """LLM.int8(), Dettmers et al. 2022, section 3.2: columns of x with outliers are multiplied in float16,
    all others in int8, so that each is multiplied once."""
    return int8_scaled_mm(out, x, weight, rows, columns, bias)


@formula("bitsandbytes.int8_mm_dequant")
def int8_mm_dequant(
    out: Any, x: TensorSpec, rows: Any, columns: Any, dtype: Any = None, bias: Any = None
) -> Cost:
    return Cost(0, 2 * x.numel + _added(bias, x.numel))


@formula("torchao.da8w4_linear_cpu")
def da8w4_linear(out: Any, x: TensorSpec, *rest: Any) -> Cost:
    """int8 activations and int4 weights: scale and compensation for each output element."""
    outputs = first(out).numel
    bias = rest[6] if len(rest) > 6 else None
    return contraction(outputs * x.shape[-1], out, 2 * outputs + _added(bias, outputs))


@formula("torchao.float8_linear_cpu")
def float8_linear(
    out: Any, x: TensorSpec, scale: Any, weight: Any, weight_scale: Any, bias: Any, *_: Any
) -> Cost:
    outputs = first(out).numel
    return contraction(outputs * x.shape[-1], out, 2 * outputs + _added(bias, outputs))


@formula("aten._sparse_semi_structured_linear")
def semi_structured_linear(out: Any, x: TensorSpec, *_: Any, bias: Any = None, **__: Any) -> Cost:
    outputs = first(out).numel
    return contraction(outputs * x.shape[-1], out, _added(bias, outputs))


@formula("aten._sparse_semi_structured_mm")
def semi_structured_mm(out: Any, packed: TensorSpec, meta: TensorSpec, dense: TensorSpec, **_: Any) -> Cost:
    return contraction(first(out).numel * dense.shape[0], out)


@formula("aten._sparse_semi_structured_addmm")
def semi_structured_addmm(
    out: Any, bias: TensorSpec, packed: TensorSpec, meta: TensorSpec, dense: TensorSpec, **_: Any
) -> Cost:
    return contraction(first(out).numel * dense.shape[0], out, first(out).numel)


@formula("aten._cslt_sparse_mm")
def cslt_sparse_mm(
    out: Any, packed: TensorSpec, dense: TensorSpec, bias: Any = None, *_: Any, **__: Any
) -> Cost:
    outputs = first(out).numel
    return contraction(outputs * dense.shape[0], out, _added(bias, outputs))


@formula("higher_order.out_dtype")
def out_dtype(out: Any, operator: Any, dtype: Any, *args: Any) -> Cost | None:
    """An operator whose result has another dtype than its inputs: the cost is the operator's."""
    return cost(str(operator).rpartition(".")[0], out, args, {})


@formula("quanto.qbytes_mm")
def quanto_qbytes_mm(out: Any, x: TensorSpec, codes: TensorSpec, *_: Any) -> Cost:
    """x (n, k), codes (m, k), scaled before the product."""
    return contraction(x.numel * codes.shape[0], out, codes.numel)


# Packing and unpacking.


@formula("quanto.unpack")
def quanto_unpack(out: Any, *_: Any) -> Cost:
    """Mask and shift for each code."""
    return Cost(0, 2 * first(out).numel)


@formula("quanto.quantize_affine", "quanto.quantize_symmetric")
def quanto_quantize(out: Any, x: TensorSpec, *_: Any) -> Cost:
    return Cost(0, QUANTIZE * x.numel)


@formula("bitsandbytes.int8_vectorwise_quant")
def int8_vectorwise_quant(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Magnitude, largest of the row, scale, round."""
    return Cost(0, QUANTIZE * x.numel)


@formula("bitsandbytes.int8_double_quant")
def int8_double_quant(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """By rows and by columns."""
    return Cost(0, 2 * QUANTIZE * x.numel)


@formula("bitsandbytes.int8_vectorwise_dequant")
def int8_vectorwise_dequant(out: Any, x: TensorSpec, *_: Any) -> Cost:
    return Cost(0, DEQUANTIZE * x.numel)


@formula("bitsandbytes.dequantize_4bit")
def dequantize_4bit(
    out: Any, packed: Any, absmax: Any, blocksize: int, kind: str, shape: Sequence[int], *_: Any, **__: Any
) -> Cost:
    """code * scale; the shape is that of the result."""
    return Cost(0, TensorSpec(tuple(shape), "uint8").numel)


@formula("bitsandbytes.dequantize_blockwise")
def dequantize_blockwise(out: Any, codes: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, codes.numel)


@formula("bitsandbytes.quantize_4bit")
def quantize_4bit(out: Any, x: TensorSpec, *_: Any) -> Cost:
    """Magnitude, largest of the block, scale, and the nearest of 16 codes by bisection."""
    return Cost(0, (3 + 4) * x.numel)


@formula("bitsandbytes.quantize_blockwise")
def quantize_blockwise(out: Any, x: TensorSpec, code: TensorSpec, *_: Any) -> Cost:
    """Magnitude, largest of the block, scale, and the nearest code by bisection."""
    return Cost(0, (3 + ceil(log2(code.numel))) * x.numel)


@formula(
    "torchao.quantize_affine",
    *(f"quantized_decomposed.quantize_per_{how}" for how in ("tensor", "channel", "channel_group", "token")),
)
def quantize(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, QUANTIZE * x.numel)


@formula(
    "torchao.dequantize_affine",
    *(
        f"quantized_decomposed.dequantize_per_{how}"
        for how in ("tensor", "channel", "channel_group", "token")
    ),
)
def dequantize(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, DEQUANTIZE * x.numel)


@formula("torchao.quantize_affine_float8_non_decomposed")
def quantize_float8(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Scale, clamp; rounding is the cast."""
    return Cost(0, 2 * x.numel)


@formula("torchao.dequantize_affine_float8_non_decomposed")
def dequantize_float8(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    return Cost(0, x.numel)


@formula(
    "torchao.choose_qparams_affine",
    "torchao.choose_scale_float8",
    "quantized_decomposed.choose_qparams",
    "quantized_decomposed.choose_qparams_symmetric",
    "quantized_decomposed.choose_qparams_per_token",
    "quantized_decomposed.choose_qparams_per_token_asymmetric",
)
def choose_scale(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """The smallest and the largest of each block, or the largest magnitude."""
    return Cost(0, 2 * x.numel)
