"""Normalisation, forward and backward. The costs are in the table of `pointwise`."""

from __future__ import annotations

from typing import Any

from inspector.tracing.formulas.pointwise import NORM, NORM_BACKWARD, NORM_STORED, NORM_STORED_BACKWARD
from inspector.tracing.formulas.registry import Cost, formula
from inspector.tracing.record import TensorSpec


def _affine(weight: Any) -> str:
    return "affine" if isinstance(weight, TensorSpec) else "plain"


@formula(
    "aten.native_batch_norm",
    "aten._native_batch_norm_legit",
    "aten._batch_norm_impl_index",
    "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm",
    "aten._batch_norm_with_update",
    "aten._batch_norm_with_update_functional",
)
def batch_norm(out: Any, x: TensorSpec, weight: Any, bias: Any, *rest: Any, **__: Any) -> Cost:
    """rest: running mean, running variance, training, ... (without the first two for no_stats)."""
    training = next((entry for entry in rest if isinstance(entry, bool)), True)
    return Cost(0, x.numel * (NORM if training else NORM_STORED)[_affine(weight)])


@formula("aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update")
def batch_norm_stored(out: Any, x: TensorSpec, weight: Any, *_: Any, **__: Any) -> Cost:
    return Cost(0, x.numel * NORM_STORED[_affine(weight)])


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
def batch_norm_backward(out: Any, grad: TensorSpec, x: TensorSpec, weight: Any, *rest: Any) -> Cost:
    """rest: running and saved statistics, training, ..."""
    training = next((entry for entry in rest if isinstance(entry, bool)), True)
    return Cost(0, x.numel * (NORM_BACKWARD if training else NORM_STORED_BACKWARD)[_affine(weight)])


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
