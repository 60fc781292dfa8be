"""Precision flags are set, read back and restored; the probe tells precisions apart."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.nn import functional

from inspector.benchmarking.precisions import PRECISIONS, choose, unavailable
from inspector.benchmarking.probe import kind, probe
from inspector.core.errors import InspectError
from inspector.profiling import flags


@pytest.mark.parametrize("wanted", ["ieee", "tf32"])
def test_flags_are_put_back_without_a_warning(wanted: str) -> None:
    before = flags.read()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with flags.precision(wanted):
            inside = flags.read()
            assert flags.leaked(inside, wanted) == []
        with pytest.raises(ValueError, match="body"), flags.precision(wanted):
            raise ValueError("body")
    assert flags.read() == before


def test_ieee_means_ieee_for_products_and_convolutions() -> None:
    with flags.precision("ieee"):
        if hasattr(torch.backends, "fp32_precision"):
            assert torch.backends.cudnn.conv.fp32_precision == "ieee"
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        else:
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32


def test_nested_use_restores_each_level() -> None:
    with flags.precision("ieee"):
        outer = flags.read()
        with flags.precision("tf32"):
            assert flags.leaked(outer, "ieee")
        assert flags.read() == outer


def test_a_change_inside_is_reported_by_name() -> None:
    with flags.precision("ieee"):
        held = flags.read()
        if hasattr(torch.backends, "fp32_precision"):
            torch.backends.cudnn.conv.fp32_precision = "tf32"
            assert flags.leaked(held, "ieee") == ["cudnn.conv.fp32_precision is tf32"]
        else:
            torch.backends.cudnn.allow_tf32 = True
            assert flags.leaked(held, "ieee") == ["cudnn.allow_tf32 is True"]
    assert flags.leaked(flags.read(), "ieee")  # torch's defaults let cuDNN round


@pytest.mark.parametrize(
    ("dtype", "autocast", "low", "high"),
    [
        (torch.float32, None, 1e-8, 1e-6),  # unit roundoff 2**-24 is 6e-8
        (torch.float16, None, 1e-4, 1e-3),  # 2**-11 is 4.9e-4
        (torch.bfloat16, None, 1e-3, 1e-2),  # 2**-8 is 3.9e-3
        (torch.float32, torch.bfloat16, 1e-3, 1e-2),
    ],
)
def test_the_probe_shows_the_unit_roundoff(
    dtype: torch.dtype, autocast: torch.dtype | None, low: float, high: float
) -> None:
    found = probe("cpu", dtype, autocast)
    assert low < found.matmul < high
    assert low < found.conv < high


def test_inputs_rounded_to_ten_bits_are_called_tf32() -> None:
    def rounded(x: torch.Tensor) -> torch.Tensor:
        return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    def conv(x: torch.Tensor, weight: torch.Tensor, **options: Any) -> torch.Tensor:
        return functional.conv2d(rounded(x), rounded(weight), **options)

    found = probe("cpu", torch.float32, None, conv=conv)
    assert kind(found.conv) == "TF32 or FP16"
    assert kind(found.matmul) == "IEEE float32"
    assert "TF32" in found.described()


def test_rows_of_a_cpu_and_of_a_gpu() -> None:
    assert [p.name for p in choose(None, False, "cpu")] == ["fp32", "amp-bf16"]
    assert [p.name for p in choose(None, False, "cuda")] == list(PRECISIONS)
    assert [p.name for p in choose(None, True, "cuda")] == ["fp32", "tf32", "amp-fp16", "amp-bf16", "fp8"]
    assert [p.name for p in choose(["bf16", "fp32"], False, "cpu")] == ["fp32", "bf16"]
    with pytest.raises(InspectError) as caught:
        choose(["fp61"], False, "cpu")
    assert "fp16" in str(caught.value.hint)
    assert "tensor cores" in unavailable(PRECISIONS["tf32"], "cpu")
