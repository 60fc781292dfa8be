"""The rules for norms on meta give what torch's own kernels give, or leave the norm to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from inspector.tracing.capture.rules import ON_META

aten = torch.ops.aten
SHAPES = [(2, 3), (1, 3), (2, 3, 5), (2, 3, 4, 5), (1, 8, 1, 1), (1, 1, 5, 7), (1, 1, 1, 1), (2, 3, 4, 5, 6)]


def meta(*shape: int, **options: Any) -> Tensor:
    return torch.empty(shape, device="meta", **options)


def form(results: Any) -> list[tuple[Any, ...]]:
    return [(one.shape, one.stride(), one.dtype, one.untyped_storage().nbytes()) for one in results]


def beside(width: int, affine: bool, statistics: int) -> list[Tensor | None]:
    return [meta(width) if affine else None] * 2 + [meta(width)] * statistics


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_norm(shape: tuple[int, ...], affine: bool) -> None:
    arguments = meta(*shape), *beside(shape[1], affine, 2), False, 0.1, 1e-5
    assert form(ON_META["aten.native_batch_norm"](*arguments)) == form(aten.native_batch_norm(*arguments))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [(7,), (1,), *SHAPES])
def test_a_layer_norm(shape: tuple[int, ...], affine: bool) -> None:
    arguments = meta(*shape), list(shape[-1:]), *beside(shape[-1], affine, 0), 1e-5
    assert form(ON_META["aten.native_layer_norm"](*arguments)) == form(aten.native_layer_norm(*arguments))


@pytest.mark.parametrize(
    "x",
    [
        meta(2, 3, 4, 5, dtype=torch.bfloat16),
        meta(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        meta(2, 3, 5, 4).transpose(2, 3),
        meta(1, 3, 1, 1).as_strided((1, 3, 1, 1), (3, 1, 3, 3)),
        meta(0, 3, 4, 5),
        meta(2, 4, 4, 5),  # four channels, with statistics of three
        torch.empty(2, 3, 4, 5),
    ],
)
def test_another_input_is_left_to_the_kernel(x: Tensor) -> None:
    batch = x, *beside(3, True, 2), False, 0.1, 1e-5
    assert ON_META["aten.native_batch_norm"](*batch) is NotImplemented


@pytest.mark.parametrize(
    "x",
    [
        meta(2, 4, 3, dtype=torch.float16),
        meta(2, 3, 4).transpose(1, 2),
        meta(1, 1, 3).as_strided((1, 1, 3), (3, 1, 1)),
        meta(0, 3),
        meta(2, 4),
        torch.empty(2, 3),
    ],
)
def test_another_sample_is_left_to_the_kernel(x: Tensor) -> None:
    layer = x, [3], *beside(3, True, 0), 1e-5
    assert ON_META["aten.native_layer_norm"](*layer) is NotImplemented


@pytest.mark.parametrize("odd", [meta(3, dtype=torch.float64), meta(6)[::2], meta(1), torch.empty(3)])
def test_other_parameters_are_left_to_the_kernel(odd: Tensor) -> None:
    for place in range(1, 5):
        batch: list[Any] = [meta(2, 3, 4), *beside(3, True, 2), False, 0.1, 1e-5]
        batch[place] = odd
        assert ON_META["aten.native_batch_norm"](*batch) is NotImplemented
    assert ON_META["aten.native_layer_norm"](meta(2, 3), [3], odd, None, 1e-5) is NotImplemented


def test_what_is_more_than_shapes_is_left_to_the_kernel() -> None:
    training = meta(2, 3, 4), *beside(3, True, 2), True, 0.1, 1e-5
    assert ON_META["aten.native_batch_norm"](*training) is NotImplemented
    without = meta(2, 3, 4), *beside(3, True, 0), None, None, False, 0.1, 1e-5
    assert ON_META["aten.native_batch_norm"](*without) is NotImplemented
    assert ON_META["aten.native_layer_norm"](meta(2, 3, 4), [3, 4], None, None, 1e-5) is NotImplemented
