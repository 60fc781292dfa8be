"""`inspect profile --roofline`: devices, their files, measured modules; and causal attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import inspector
from inspector.core import devices
from inspector.core.errors import InspectError
from inspector.profiling.roofline import Roofline
from inspector.profiling.views.totals import totals


def test_every_device_has_a_source_and_a_bandwidth() -> None:
    for device in devices.DEVICES:
        assert device.source
        assert device.bandwidth > 100
        assert device.peaks["fp32"] > 1
    for name in ("a100", "h100", "h200", "l4", "t4", "rtx 4090", "cpu"):
        assert devices.named(name)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("H100", "H100 SXM"), ("h100-pcie", "H100 PCIe"), ("rtx4090", "RTX 4090"), ("L4", "L4")],
)
def test_devices_are_found_by_the_beginning_of_their_name(asked: str, found: str) -> None:
    assert devices.named(asked).name == found


def test_a_device_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(
        "- {name: slow, bandwidth: 10, peaks: {fp32: 1}}\n- {name: fast, bandwidth: 20, peaks: {fp32: 2}}\n"
    )
    assert [device.name for device in devices.read(file)] == ["slow", "fast"]
    chosen = Roofline.of("fast", file, tf32=False, amp=False, dtype=None, measure=False).device
    assert chosen is not None
    assert (chosen.bandwidth, chosen.peaks) == (20.0, {"fp32": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no device"),
        ("name: x", "needs peaks"),
        ("{name: x, peaks: {fp99: 1}, bandwidth: 1}", "needs peaks"),
        ("{name: x, peaks: {fp32: 1}}", "positive numbers"),
        ("{name: x, peaks: {fp32: -1}, bandwidth: 1}", "positive numbers"),
        ("{name: x, peaks: {fp32: true}, bandwidth: 1}", "positive numbers"),
        ("{name: x, peaks: {fp32: 1}, bandwidth: 1, speed: 3}", "unknown key 'speed'"),
        ("just text", "a mapping with a name"),
        ("{", "not YAML"),
    ],
)
def test_a_file_that_is_no_device_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "device.yaml"
    file.write_text(text)
    with pytest.raises(InspectError, match=message):
        devices.read(file)
    with pytest.raises(InspectError, match="cannot read"):
        devices.read(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("b300", {}, "no device is called 'b300'"),
        (None, {"amp": True}, "`amp=` belongs to a roofline"),
        (None, {"measure": True}, "`measure=` belongs to a roofline"),
        ("t4", {"tf32": True}, "T4 has no TF32"),
        ("h100", {"dtype": "int8"}, "unknown dtype"),
    ],
)
def test_what_makes_no_roofline_is_refused(name: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InspectError, match=message):
        Roofline.of(name, None, **{"tf32": False, "amp": False, "dtype": None, "measure": False, **options})


def test_the_command_adds_the_bounds_and_keeps_the_counts(inspect: Any, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    code, _, _ = inspect("profile", "resnet18", "--roofline", "h100", "--amp", "-o", out)
    report = inspector.Report.read(out)
    assert code == 0
    assert report.metrics["macs"].value == inspector.profile("resnet18").metrics["macs"].value
    # 2 x 1,814,073,344 MACs in bfloat16 at 989.4 TFLOP/s are 3.67 us; the weights alone, read in float32
    # and written and read in bfloat16, are 46.8 MB x 2 at 3350 GB/s: 27.9 us.
    seconds = report.metrics["roofline_seconds"].value
    assert seconds is not None
    assert 27.9e-6 < seconds < 300e-6
    assert len(report.tables["roofline_operators"]) > 3


def test_measured_modules_take_longer_than_the_roofline_says(inspect: Any, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    code, _, _ = inspect(
        "profile", "squeezenet1_1", "--input", "1x3x64x64", "--roofline", "cpu", "--measure", "-o", out
    )
    assert code == 0
    modules = inspector.Report.read(out).to_frame("roofline_modules").set_index("path")
    inside = modules.loc["features.0", "measured"]
    assert 0 < inside < modules.loc["features", "measured"] <= modules.loc["", "measured"]
    assert 0 < modules.loc["", "achieved"] < 1


def test_measuring_leaves_no_hook_and_does_not_touch_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).train()
    report = inspector.profile(model, "2x4", roofline="cpu", dtype="bfloat16", measure=True)
    assert report.to_frame("roofline_modules")["measured"].gt(0).all()
    assert model.training
    assert model[0].weight.dtype is torch.float32
    assert not model[0]._forward_hooks
    assert not model[0]._forward_pre_hooks


class Attend(nn.Module):
    def __init__(self, causal: bool, length: int = 4, source: int = 4) -> None:
        super().__init__()
        self.causal, self.length, self.source = causal, length, source
        self.project = nn.Linear(8, 8, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.project(x).view(1, 1, -1, 8)
        query, key = x[:, :, : self.length], x[:, :, : self.source]
        return functional.scaled_dot_product_attention(query, key, key, is_causal=self.causal)


def test_a_causal_mask_leaves_half_the_scores_and_the_diagonal() -> None:
    # 4 x 4 scores of width 8: dense 4 * 4 * (8 + 8) = 256 MACs; rows see 1, 2, 3, 4 of 4: 10/16 of it.
    # The projection of 4 rows, 4 * 8 * 8 = 256, is dense.
    sums = totals(inspector.trace(Attend(True), torch.ones(4, 8)))
    assert (sums["macs"], sums["causal_macs"]) == (256 + 256, 256 + 160)
    assert "causal_macs" not in totals(inspector.trace(Attend(False), torch.ones(4, 8)))


def test_fewer_queries_than_keys_see_from_the_first_key_on() -> None:
    # torch's causal mask is aligned to the top left: 2 queries see 1 and 2 of 4 keys, 3 of 8 scores.
    sums = totals(inspector.trace(Attend(True, length=2), torch.ones(4, 8)))
    assert (sums["macs"], sums["causal_macs"]) == (256 + 2 * 4 * 16, 256 + 3 * 16)


def test_the_backward_of_causal_attention_is_causal() -> None:
    # Backward: attention twice its 256, the projection's weight gradient 256 (the input needs none).
    sums = totals(inspector.trace(Attend(True), torch.ones(4, 8), phase="train"))
    assert sums["macs"] == 3 * 256 + 2 * 256
    assert sums["causal_macs"] == 3 * 160 + 2 * 256


def test_the_report_says_dense_and_causal_side_by_side() -> None:
    report = inspector.profile(Attend(True), torch.ones(4, 8))
    assert report.metrics["causal_macs"].value == 416
    assert "MACs under masks" in str(report)
