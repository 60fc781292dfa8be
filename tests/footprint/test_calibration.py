"""`memory(calibrate=FILE)`: what was measured narrows the range, for its card and versions alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.core.errors import InspectError
from inspector.footprint.calibration import Calibration
from tests.conftest import Run

HERE = torch.__version__.partition("+")[0]
H100 = "NVIDIA H100 80GB HBM3"


def row(workspace: int, channels: int = 16, dtype: str = "float32", **more: Any) -> dict[str, Any]:
    """A convolution of 3x3 without stride, 8 channels and 10 x 10 points in."""
    inputs = [[[2, 8, 10, 10], dtype], [[channels, 8, 3, 3], dtype]]
    return {"name": "aten.convolution", "inputs": inputs, "outputs": [[[2, channels, 10, 10], dtype]],
            "channels_last": False, "workspace": workspace, "without_cudnn": 0, **more}  # fmt: skip


def content(*rows: dict[str, Any], **environment: Any) -> dict[str, Any]:
    held = {"torch": HERE, "device": H100, "capability": [9, 0], "cudnn": torch.backends.cudnn.version() or 1}
    return {
        "environment": {**held, **environment},
        "cases": {"workspaces": {}, "convolutions net": {"rows": rows}},
    }


def saved(tmp_path: Path, *rows: dict[str, Any], **environment: Any) -> Path:
    file = tmp_path / "gpu_2.json"
    file.write_text(json.dumps(content(*rows, **environment)))
    return file


def net(channels: int) -> nn.Module:
    return nn.Conv2d(8, channels, 3, padding=1)


def extra(file: Path, channels: int = 16, **options: Any) -> tuple[Any, ...]:
    report = inspector.memory(net(channels), "2x8x10x10", calibrate=file, **options)
    names = ("convolution_workspace_low", "convolution_workspace")
    return (*(report.metrics[name].value for name in names), report)


def test_the_same_convolution_takes_what_was_measured(tmp_path: Path) -> None:
    # Two engines were seen: 5,120 and 10,240 bytes, multiples of 512. The bias is not cuDNN's.
    low, high, report = extra(saved(tmp_path, row(5_120), row(10_240)))
    assert (low, high) == (5_120, 10_240)
    frame = report.to_frame("workspaces")
    assert frame[["kind", "source"]].to_numpy().tolist() == [["measured", "calibrated"]]
    messages = [finding.message for finding in report.findings]
    assert any(f"(calibrated) on {H100} with torch {HERE}" in message for message in messages)
    assert not any("bound" in message for message in messages)


def test_another_convolution_takes_the_shares_of_the_bound(tmp_path: Path) -> None:
    # The bound is the FFT: 8 * 544 * (2 * (8 + 16) + 16 * 8) = 765,952 bytes; a quarter and a half of it were
    # measured. Of 32 channels it is 8 * 544 * (2 * (8 + 32) + 32 * 8) = 1,462,272: 365,568 and 731,136.
    low, high, report = extra(saved(tmp_path, row(765_952 // 4), row(765_952 // 2)), channels=32)
    assert (low, high) == (365_568, 731_136)
    assert set(report.to_frame("workspaces")["kind"]) == {"by the share measured"}


def test_another_precision_layout_or_direction_is_not_narrowed(tmp_path: Path) -> None:
    file = saved(tmp_path, row(5_120, dtype="float16"), row(5_120, channels_last=True))
    low, high, report = extra(file)
    assert (low, high) == (0, 765_952)
    assert set(report.to_frame("workspaces")["source"]) == {"bound"}


def test_the_file_names_the_card(tmp_path: Path) -> None:
    file = saved(tmp_path, row(5_120))
    for options in ({}, {"gpu": "h100"}):
        report = inspector.memory(
            nn.Sequential(nn.Linear(4, 4, bias=False)), "1x4", calibrate=file, **options
        )
        assert report.metrics["peak_workspace"].value >= 32 * 2**20  # as on compute capability 9
    with pytest.raises(InspectError, match=f"was measured on {H100}, not on A100 SXM 80GB"):
        extra(file, gpu="a100")
    with pytest.raises(InspectError, match="was measured on NVIDIA Strange 1, not on H100"):
        extra(saved(tmp_path, row(5_120), device="NVIDIA Strange 1"), gpu="h100")


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"torch": "1.0.0"}, f"measured with torch 1.0.0, this is {HERE}"),
        ({"cudnn": 80_000}, "measured with cuDNN 80000, this is 90000"),
    ],
)
def test_another_version_does_not_apply_and_says_so(
    environment: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 90_000)
    low, high, report = extra(saved(tmp_path, row(5_120), **{"cudnn": 90_000, **environment}))
    assert (low, high) == (0, 765_952)
    assert any(f"does not apply: {reason}" in finding.message for finding in report.findings)
    assert set(report.to_frame("workspaces")["source"]) == {"bound"}


def test_a_torch_without_cudnn_takes_the_files_word_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: None)
    assert extra(saved(tmp_path, row(5_120), cudnn=80_000))[:2] == (5_120, 5_120)


BAD = {
    "[]": "holds no measured workspaces",
    "{": "is not JSON",
    "\x00": "is not JSON",
    "[" * 100_000: "is not JSON",
    json.dumps({"environment": {}}): "holds no measured workspaces",
    json.dumps(content()): "holds no measured workspaces",
    json.dumps(content(row(-1))): "holds no measured workspaces",
    json.dumps(content(row(1, dtype="float7"))): "holds no measured workspaces",
    json.dumps(content({**row(1), "inputs": []})): "holds no measured workspaces",
    json.dumps(content({**row(1), "inputs": [[[2], "float32"]] * 2})): "holds no measured workspaces",
    json.dumps(content({**row(1), "inputs": [[[2, 8, 4], "float32"], [[2, 0, 1], "float32"]]})): (
        "holds no measured workspaces"
    ),
    json.dumps(content(row(1, name="aten.mm"))): "holds no measured workspaces",
    json.dumps(content(row(1))).replace('"workspace": 1,', '"workspace": Infinity,'): (
        "holds no measured workspaces"
    ),
    json.dumps(content(row(1), capability=None)): "holds no measured workspaces",
    json.dumps({**content(row(1)), "cases": [1]}): "holds no measured workspaces",
    json.dumps({**content(row(1)), "cases": {"": {}}}): "holds no measured workspaces",
}


@pytest.mark.parametrize("number", range(len(BAD)))
def test_any_other_file_is_one_line_and_a_hint(number: int, tmp_path: Path) -> None:
    text, message = list(BAD.items())[number]
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(InspectError, match=message) as raised:
        Calibration.read(file)
    assert "\n" not in raised.value.message
    assert "gpu.py 2" in str(raised.value.hint)


def test_the_command_line(inspect: Run, net_file: Path, tmp_path: Path) -> None:
    words = ("memory", f"{net_file}:Net", "--input", "1x3x8x8", "--calibrate")
    code, out, err = inspect(*words, tmp_path / "none.json")
    assert (code, out) == (2, "")
    assert err.splitlines()[-2].startswith("error: cannot read ")
    code, out, err = inspect(*words, saved(tmp_path, row(5_120)), "--gpu", "t4")
    assert code == 2
    assert err.splitlines()[-2:] == [
        f"error: {tmp_path}/gpu_2.json was measured on {H100}, not on T4",
        "hint: leave out --gpu, or calibrate on that card",
    ]
    code, out, _ = inspect(*words, saved(tmp_path, row(5_120)))
    assert code == 0
    assert "calibrated" in out
