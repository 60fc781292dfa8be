"""What convolutions and the backward of attention take for themselves, derived by hand."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import inspector
from inspector.footprint import Plan, simulate
from inspector.footprint.cublas import Workspaces
from inspector.footprint.workspaces import ATTENTION, CUDNN, Rules, Workspace
from inspector.tracing.capture import capture
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import Setting
from inspector.tracing.record import Op, TensorSpec, Trace

FFT = 32 * 17
"""Complex numbers of a half spectrum of a tile of 32 x 32."""


def ops(model: nn.Module, *shape: int, dtype: str = "float32", phase: str = "forward") -> list[Op]:
    x = torch.empty(shape, device="meta", dtype=getattr(torch, dtype))
    trace = capture(model.to("meta", x.dtype), (x,), phase=phase, setting=Setting(kernels=Kernels()))
    return [op for op in trace.ops if "convolution" in op.name]


def needs(op: Op, major: int | None = 8, channels_last: bool = False) -> dict[str, int]:
    workspaces = Rules(major, channels_last).workspaces(op)
    assert all((w.low, w.owner, w.source) == (0, CUDNN, "bound") for w in workspaces)
    return {w.kind: w.high for w in workspaces}


def convolution(**more: Any) -> nn.Conv2d:
    return nn.Conv2d(8, 16, 3, padding=1, bias=False, **more)


def test_each_family_of_a_3_by_3_convolution() -> None:
    # x (2, 8, 10, 10), y (2, 16, 10, 10), filters (16, 8, 3, 3), float32.
    (op,) = ops(convolution(), 2, 8, 10, 10)
    assert needs(op) == {
        "implicit GEMM, indices": 4 * 8 * 9,
        "explicit GEMM": 4 * (2 * 8 * 9 * 100),
        "copies in NHWC": 4 * (2 * 8 * 100 + 2 * 16 * 100 + 16 * 8 * 9),  # 8 and 16 are multiples of 4
        "Winograd": 4 * 16 * (2 * 25 * (8 + 16) + 16 * 8),  # 4 x 4 numbers for each of 5 x 5 tiles
        "FFT in tiles": 8 * FFT * (2 * 1 * (8 + 16) + 16 * 8),  # one tile gives 30 x 30 outputs
    }


def test_channels_are_filled_up_for_tensor_cores() -> None:
    # 3 channels of float16 become 8 in input and filters, 5 outputs become 8.
    (op,) = ops(nn.Conv2d(3, 5, 1, bias=False), 1, 3, 4, 4, dtype="float16")
    assert needs(op)["copies in NHWC"] == 2 * (8 * 16 + 8 * 16 + 8 * 8)
    assert "FFT in tiles" not in needs(op)  # a filter of one element is a product


@pytest.mark.parametrize(
    ("dtype", "major", "channels_last", "kinds"),
    [
        ("float32", 7, False, {"Winograd", "FFT in tiles"}),  # no TF32 before compute capability 8
        ("float32", 8, False, {"Winograd", "FFT in tiles", "copies in NHWC"}),
        ("float32", None, False, {"Winograd", "FFT in tiles", "copies in NHWC"}),
        ("float32", 9, True, {"Winograd"}),
        ("float16", 7, False, {"Winograd", "FFT in tiles", "copies in NHWC"}),
        ("bfloat16", 7, False, set()),
        ("bfloat16", 9, False, {"copies in NHWC"}),
        ("float64", 9, False, {"FFT in tiles"}),
    ],
)
def test_families_by_precision_card_and_layout(
    dtype: str, major: int | None, channels_last: bool, kinds: set[str]
) -> None:
    (op,) = ops(convolution(), 2, 8, 10, 10, dtype=dtype)
    assert set(needs(op, major, channels_last)) - {"implicit GEMM, indices", "explicit GEMM"} == kinds


@pytest.mark.parametrize("more", [{"stride": 2}, {"dilation": 3}])
def test_strided_and_dilated_filters_are_not_transformed(more: dict[str, int]) -> None:
    (op,) = ops(convolution(**more), 2, 8, 20, 20)
    assert not {"Winograd", "FFT in tiles"} & set(needs(op))


def test_gradients_need_what_the_forward_needs_and_a_transposed_one_too() -> None:
    forward, *backward = ops(nn.Sequential(nn.Conv2d(4, 8, 1), convolution()), 2, 4, 10, 10, phase="train")[
        1:
    ]
    assert forward.inputs[1].shape == (16, 8, 3, 3)
    assert needs(backward[0]) == needs(forward)
    (transposed,) = ops(nn.ConvTranspose2d(16, 8, 3, padding=1, bias=False), 2, 16, 10, 10)
    assert needs(transposed) == needs(forward)


def test_sequences_are_images_of_one_row_and_volumes_have_smaller_tiles() -> None:
    (op,) = ops(nn.Conv1d(4, 4, 3, padding=1, bias=False), 1, 4, 60)
    assert needs(op)["FFT in tiles"] == 8 * FFT * (2 * (4 + 4) + 4 * 4)  # 60 / 30 tiles
    assert "Winograd" not in needs(op)
    (op,) = ops(nn.Conv3d(2, 2, 3, padding=1, bias=False), 1, 2, 14, 14, 14)
    assert needs(op)["FFT in tiles"] == 8 * (16 * 16 * 9) * (1 * (2 + 2) + 2 * 2)


def test_depthwise_convolutions_run_on_torchs_own_kernel() -> None:
    narrow, wide = (nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False) for n in (16, 32))
    assert needs(ops(narrow, 1, 16, 8, 8)[0]) == {}
    assert needs(ops(wide, 1, 32, 8, 8)[0]) == {}
    assert needs(ops(narrow, 1, 16, 8, 8, dtype="float16")[0]) == {}
    assert needs(ops(wide, 1, 32, 8, 8, dtype="float16")[0]) != {}
    assert needs(ops(narrow, 1, 16, 8, 8)[0], channels_last=True) != {}
    assert needs(ops(wide, 1, 32, 8, 8, dtype="bfloat16")[0]) == {}


class Attend(nn.Module):
    """Attention of 4 heads on what one layer makes; `shared`: every key and value serves 2 of them."""

    def __init__(self, width: int, shared: bool = False) -> None:
        super().__init__()
        self.linear, self.shared = nn.Linear(width, width), shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = self.linear(x)
        k = q[:, :2] if self.shared else q
        return nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=self.shared)


def attention(dtype: str, width: int, major: int = 8, shared: bool = False) -> tuple[Trace, Workspace]:
    x = torch.empty(2, 4, 100, width, dtype=getattr(torch, dtype), device="meta")
    model = Attend(width, shared).to("meta", x.dtype)
    with mock.patch.object(torch.backends.cudnn, "version", return_value=92000):
        trace = capture(model, (x,), phase="train", setting=Setting(kernels=Kernels(major=major)))
    (op,) = [op for op in trace.ops if op.name.endswith("attention_backward")]
    (workspace,) = Rules(major).workspaces(op)
    assert workspace.owner == ATTENTION
    return trace, workspace


def test_flash_attention_sums_dq_in_float32() -> None:
    # 8 heads in all; 100 queries become 128, 40 wide becomes 64; one more float each for the sums.
    _, workspace = attention("float16", 40)
    assert workspace[:2] == (4 * 8 * 128 * 65,) * 2
    assert (workspace.kind, workspace.source) == ("FlashAttention", "derived")
    # 136 wide becomes 192. Two query heads of a key head each write their own dK and dV.
    _, workspace = attention("bfloat16", 136)
    assert workspace.high == 4 * 8 * 128 * 193
    _, workspace = attention("float16", 64, shared=True)
    assert workspace.high == 4 * 8 * 128 * 65 + 2 * 8 * 100 * 64 * 2


def test_the_memory_efficient_backward() -> None:
    # float32: the product 8 * 100 * 64 * 4, its sum and delta (8 * 100 * 4 each); then dQ of the same size
    # in float32, or 8 tiles of 128 x 128 with a lock of 16 bytes.
    _, workspace = attention("float32", 64)
    assert workspace.low == 8 * 100 * 64 * 4 + 2 * 8 * 100 * 4
    assert workspace.high == 8 * (4 * 128 * 128 + 16) + 8 * 100 * 4
    assert workspace.source == "derived"


def test_cudnns_attention_may_keep_dp_or_dq() -> None:
    # dQ: 8 * 100 * 64 * 4 = 204,800; dP: 8 * 128 * 128 * 2 = 262,144; sums 8 * 100 * 4.
    _, workspace = attention("float16", 64, major=9)
    assert workspace[:2] == (0, 262_144 + 3_200)
    assert (workspace.kind, workspace.source) == ("cuDNN", "bound")


def test_the_workspace_of_flash_attention_is_in_the_peak_and_gone_after() -> None:
    trace, workspace = attention("float16", 40)
    # Alone, without cuBLAS: 266,240 bytes, a multiple of 512, which live at the backward alone.
    plan = Plan(workspaces=Workspaces(0, False, 0), rules=Rules(8))
    with mock.patch.object(Rules, "workspaces", return_value=[]):
        without = simulate(trace, plan)
    memory = simulate(trace, plan)
    rises = [sum(a.values()) - sum(b.values()) for a, b in zip(memory.curve, without.curve)]
    (at,) = [index for index, op in enumerate(trace.ops) if op.name.endswith("attention_backward")]
    assert workspace.low == 266_240
    assert [rise for index, rise in enumerate(rises) if rise] == [266_240]
    assert rises[at] == 266_240
    assert memory.extra(ATTENTION) == (0, 0)


def test_the_report_has_the_range_with_its_source() -> None:
    # Alone in the model: what a family takes comes on top of the peak, each in multiples of 512 bytes.
    report = inspector.memory(convolution(), "2x8x10x10", gpu="a100")
    frame = report.to_frame("workspaces").set_index("kind")
    fft = 8 * FFT * (2 * (8 + 16) + 16 * 8)
    assert fft % 512 == 0
    assert frame.loc["FFT in tiles", "at_most"] == fft == report.metrics["convolution_workspace"].value
    assert report.metrics["convolution_workspace_low"].value == 0
    assert set(frame["source"]) == {"bound"}
    assert any("compute capability 8" in finding.message for finding in report.findings)
    plain = inspector.memory(nn.Linear(4, 4), "1x4")
    assert "workspaces" not in plain.tables
    assert not any("cuDNN" in finding.message for finding in plain.findings)


def test_the_layout_is_that_of_the_models_filters() -> None:
    def kinds(model: nn.Module, shape: str) -> set[str]:
        return set(inspector.memory(model, shape).to_frame("workspaces")["kind"])

    assert "FFT in tiles" in kinds(convolution(), "2x8x10x10")
    assert "FFT in tiles" not in kinds(convolution().to(memory_format=torch.channels_last), "2x8x10x10")


def test_what_may_not_fit_says_how_much_more_there_may_be() -> None:
    report = inspector.memory("resnet18", batch=2, fits="1GiB")
    (finding,) = [finding for finding in report.findings if finding.check == "fits"]
    assert finding.status == "pass"
    assert "too tight if workspaces take the most that they may" in finding.message


def test_packed_filters_and_empty_tensors_are_not_cudnns() -> None:
    x, y = TensorSpec((1, 8, 4, 4), "float32"), TensorSpec((1, 8, 4, 4), "float32")
    packed, flat = TensorSpec((8, 72), "int8"), TensorSpec((40,), "uint8")
    empty = TensorSpec((0, 8, 4, 4), "float32")
    weight = TensorSpec((8, 8, 3, 3), "float32")
    for inputs in ((x, packed), (x, flat), (empty, weight)):
        assert Rules().bounds("aten.convolution", inputs, (y,)) == []
    assert Rules().bounds("aten.convolution", (x, weight), (y,))
