"""Linear layers in FP8: what a deployment on Ada, Hopper and later cards would run, in inference.

Weights and inputs are float8_e4m3fn with one scale each: the largest magnitude lies at 448, the format's end.
A weight is scaled once, an input at each call; the product is summed in float32 and given in bfloat16
(torch._scaled_mm, aten/src/ATen/native/cuda/ScaledBlas.cpp, Blas.cpp before torch 2.10). Everything else runs
under BF16 autocast. The product has no gradient, and cuBLASLt takes sizes in multiples of 16 alone.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.tracing import _torch

LARGEST = 448.0
"""The largest finite float8_e4m3fn: 1.75 x 2^8."""
CAPABILITY = (8, 9)
"""The first cards whose tensor cores take FP8: Ada (NVIDIA Ada GPU Architecture white paper)."""
MULTIPLE = 16


class ScaledLinear(nn.Module):
    """A Linear layer whose weight is kept in FP8, with its input scaled at each call."""

    scaled_weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = scaled(linear.weight.detach())
        self.register_buffer("scaled_weight", weight)
        self.register_buffer("scale", scale)
        bias = linear.bias.detach().to(torch.bfloat16) if linear.bias is not None else None
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = scaled(x.reshape(-1, x.shape[-1]))
        product = _torch.scaled_product(
            rows, self.scaled_weight.t(), scale, self.scale, bias=self.bias, out_dtype=torch.bfloat16
        )
        return product.reshape(*x.shape[:-1], -1)  # type: ignore[no-any-return]


def scaled(values: Tensor) -> tuple[Tensor, Tensor]:
    """The values in FP8, and the float32 scale that they were divided by."""
    scale = (values.abs().amax().float() / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (values.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, name and layer of each Linear layer that FP8 takes; derived classes do work of their own."""
    for parent in list(model.modules()):
        if isinstance(parent, torch.jit.ScriptModule):
            continue
        for name, child in parent.named_children():
            if type(child) is nn.Linear and _fits(child):
                yield parent, name, child


def put_in(model: nn.Module) -> None:
    """Replace those layers in a model of our own; one that is used in several places stays one."""
    twins: dict[nn.Module, nn.Module] = {}
    for parent, name, child in layers(model):
        if child not in twins:
            twins[child] = ScaledLinear(child)
        setattr(parent, name, twins[child])


def unfit(model: nn.Module, mode: str) -> str:
    """Why a model has no FP8 row in a mode; "" where it has."""
    if mode == "train":
        return "FP8 rows are of inference: torch's scaled products have no gradient"
    if type(model) is nn.Linear or next(layers(model), None) is None:
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
        if not linear:
            return "the model has no Linear layer"
        if type(model) is nn.Linear:
            return "the model is a Linear layer itself: put it in a module"
        return f"no Linear layer is float32 in multiples of {MULTIPLE} on both sides"
    return ""


def missing(device: str) -> str:
    """Why a device, or this torch, has no scaled products; "" where it has them."""
    if not device.startswith("cuda") or torch.version.hip is not None:
        return "FP8 products are run on NVIDIA GPUs alone"
    try:
        product = _torch.scaled_product
    except InspectError:
        product = None
    if product is None:
        return "this torch has no scaled products"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < CAPABILITY:
        wanted = ".".join(map(str, CAPABILITY))
        return f"FP8 needs compute capability {wanted}; this device has {major}.{minor}"
    return ""


def counted(model: nn.Module) -> tuple[int, int]:
    """Linear layers in FP8, and all of them, of a model that `put_in` has changed."""
    modules = list(model.modules())
    inside = sum(isinstance(module, ScaledLinear) for module in modules)
    return inside, inside + sum(isinstance(module, nn.Linear) for module in modules)


def _fits(layer: nn.Linear) -> bool:
    sizes = layer.in_features % MULTIPLE == 0 and layer.out_features % MULTIPLE == 0
    return sizes and layer.weight.dtype is torch.float32
