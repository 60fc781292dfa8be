"""Integer kernels of torch.ao's eager quantisation: the counts of the float operators they replace.

Their weights hide in packed objects, which arrive here as a `TensorSpec` of the unpacked weight.
Requantising (scale, shift, round, clamp) is part of the kernel: 1 per output element, as a bias.
"""

from __future__ import annotations

from typing import Any

from inspector.tracing.formulas.contractions import contraction, conv_macs
from inspector.tracing.formulas.registry import Cost, first, formula
from inspector.tracing.record import TensorSpec


def _variants(*names: str, relu: bool = True) -> list[str]:
    suffixes = ("", "_relu", "_dynamic") if relu else ("", "_dynamic")
    return [f"quantized.{name}{suffix}" for name in names for suffix in suffixes]


@formula(*_variants("conv1d", "conv2d", "conv3d"))
def quantized_conv(out: Any, x: TensorSpec, weight: TensorSpec, *_: Any) -> Cost:
    return contraction(conv_macs(x, weight, first(out), False), out, first(out).numel)


@formula(*_variants("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", relu=False))
def quantized_conv_transpose(out: Any, x: TensorSpec, weight: TensorSpec, *_: Any) -> Cost:
    return contraction(conv_macs(x, weight, first(out), True), out, first(out).numel)


@formula(
    *_variants("linear"),
    "quantized.linear_relu_dynamic",
    "quantized.linear_dynamic_fp16",
    "quantized.linear_relu_dynamic_fp16",
)
def quantized_linear(out: Any, x: TensorSpec, weight: TensorSpec, *_: Any) -> Cost:
    return contraction(first(out).numel * x.shape[-1], out, first(out).numel)


@formula("quantized.add", "quantized.mul", "quantized.add_scalar", "quantized.mul_scalar")
def quantized_binary(out: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, first(out).numel)


@formula("quantized.add_relu", "quantized.mul_relu", "quantized.hardswish", "quantized.relu6")
def quantized_fused(out: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, 2 * first(out).numel)


@formula("aten.quantize_per_tensor", "aten.quantize_per_channel", "aten.quantize_per_tensor_dynamic")
def quantize(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Scale, round, shift, clamp."""
    return Cost(0, 4 * x.numel)


@formula("aten.dequantize")
def dequantize(out: Any, x: TensorSpec, *_: Any, **__: Any) -> Cost:
    """Shift, scale."""
    return Cost(0, 2 * x.numel)
