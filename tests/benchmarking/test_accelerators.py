"""Accelerators other than CUDA, on a fake: what they have is measured, the rest is absent with its reason."""

from __future__ import annotations

import pytest
import torch

import inspector
from inspector.models.device import accelerator, real_device
from tests.benchmarking.test_bench import Net
from tests.fake_gpu import FakeAccelerator

KINDS = pytest.mark.parametrize("kind", ["xpu", "mps"])


@KINDS
def test_every_row_of_another_accelerator(kind: str) -> None:
    with FakeAccelerator(kind) as fake:
        report = inspector.bench(Net(), "1x3x8x8", batches=[2], seconds=0.05, amp=True)
    rows = report.to_frame("rows").set_index(["mode", "precision"])
    tf32 = rows.xs("tf32", level="precision")
    assert (tf32["reason"] == "TF32 is a format of CUDA's tensor cores").all()
    others = rows.drop(index=["tf32", "fp8"], level="precision")
    assert (others["status"] == "measured").all()
    assert rows.xs("fp8", level="precision")["reason"].str.contains("NVIDIA GPUs alone").all()
    assert report.environment["gpu"] == ("a fake xpu" if kind == "xpu" else "Apple GPU")
    assert report.subject["device"] == kind
    assert fake.asked.count(("synchronize", 0)) > 20  # the host waits for each call
    counted = kind == "xpu" and hasattr(torch.accelerator, "max_memory_allocated")
    assert rows["peak_allocated"].notna().any() == counted
    reasons = {finding.message for finding in report.findings if finding.check == "drift"}
    assert reasons == ({"unknown: mps has no float64"} if kind == "mps" else set())
    assert rows["fraction_of_peak"].isna().all()


@KINDS
def test_what_needs_cuda_is_refused_or_runs_elsewhere(kind: str) -> None:
    with FakeAccelerator(kind):
        assert accelerator() == kind
        assert real_device(None) == "cpu"  # memory and times of modules know CUDA and the CPU
        with pytest.raises(inspector.InspectError, match="CUDA graphs"):
            inspector.bench(Net(), "1x3x8x8", cuda_graph=True, device=kind)
        with pytest.raises(inspector.InspectError, match="no CUDA device"):
            inspector.bench(Net(), "1x3x8x8", require_gpu=True)
    assert accelerator() is None
