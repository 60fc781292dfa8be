"""What really ran: one product and one convolution against float64, in the row's own precision."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SIZE = 256
"""Rows and columns of the product; the sums of the convolution are about as long (32 x 3 x 3)."""
KINDS = ((1e-5, "IEEE float32"), (1.5e-3, "TF32 or FP16"), (2e-2, "BF16"))
"""Relative L2 errors below which a product has the precision of this name: inputs rounded to p bits are
off by 2**-p / sqrt(3) each, p = 24 (float32), 11 (TF32, FP16), 8 (BF16), and so is about the product."""


@dataclass(frozen=True)
class Probe:
    """Relative L2 errors, against float64, of one matrix product and one convolution."""

    matmul: float
    conv: float

    def described(self) -> str:
        """Both, with the name of the precision that has such errors."""
        return (
            f"matmul {self.matmul:.1e} ({kind(self.matmul)}), convolution {self.conv:.1e} ({kind(self.conv)})"
        )


def kind(error: float) -> str:
    """The precision whose products have such an error."""
    return next((name for limit, name in KINDS if error < limit), "unknown")


def probe(
    device: str,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    *,
    matmul: Callable[..., Tensor] = torch.matmul,
    conv: Callable[..., Tensor] = functional.conv2d,
) -> Probe:
    """Run both in `dtype`, under `autocast` unless it is None, on seeded values, with the flags as they are.

    Raises what the operators raise where the device cannot do them.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    pairs: tuple[Any, ...] = (
        (matmul, torch.matmul, (draw(SIZE, SIZE), draw(SIZE, SIZE)), {}),
        (conv, functional.conv2d, (draw(4, 32, 16, 16), draw(32, 32, 3, 3)), {"padding": 1}),
    )
    context: Any = torch.autocast(torch.device(device).type, autocast) if autocast else nullcontext()
    errors = []
    with torch.no_grad():
        for run, exact, values, options in pairs:
            truth = exact(*(value.double() for value in values), **options)
            with context:
                result = run(*(value.to(device, dtype) for value in values), **options)
            errors.append(float((result.cpu().double() - truth).norm() / truth.norm()))
    return Probe(*errors)
