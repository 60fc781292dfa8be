"""Accelerators other than CUDA, on a fake: what they have is measured, the rest is absent with its reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import inspector
from inspector.models.device import accelerator, real_device
from inspector.profiling.meter import metered
from inspector.tracing.capture.isolate import random_state
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
        assert real_device(None) == "cpu"  # training knows CUDA and the CPU
        with pytest.raises(inspector.InspectError, match="CUDA graphs"):
            inspector.bench(Net(), "1x3x8x8", cuda_graph=True, device=kind)
        with pytest.raises(inspector.InspectError, match="no CUDA device"):
            inspector.bench(Net(), "1x3x8x8", require_gpu=True)
    assert accelerator() is None


def counted(kind: str) -> bool:
    """Apple's GPUs keep no peak of memory, nor does torch before 2.9."""
    return kind == "xpu" and hasattr(torch.accelerator, "max_memory_allocated")


@KINDS
def test_the_times_of_a_page_wait_at_every_mark(kind: str) -> None:
    with FakeAccelerator(kind) as fake:
        report = inspector.page(Net(), "1x3x8x8", time=kind)
        runs = fake.asked.count(("synchronize", 0))
    # Marked runs have a mark before, one after, and two for each of 4 modules (the whole, 3 in it): 10; a
    # bare one has 2. At least 5 of each were made.
    assert runs >= 5 * (10 + 2)
    assert runs % 12 == 0
    assert report.metrics["forward_seconds"].value > 0
    assert "by the host's clock" in dict(report.header)["time"]
    assert "IEEE" not in dict(report.header)["time"]


@KINDS
def test_a_table_measures_what_the_accelerator_tells(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from tests.benchmarking.test_bench import Net\n")
    with FakeAccelerator(kind) as fake:
        report = inspector.table([f"{file}:Net"], inputs=["1x3x8x8"], measure=["latency", "memory"], rounds=2)
    (row,) = report.to_frame("models").to_dict("records")
    assert row["latency"] > 0
    assert row.get("cpu_time") is None
    assert report.subject["device"] == kind
    assert ("synchronize", 0) in fake.asked
    reasons = [finding.message for finding in report.findings if finding.check == "memory"]
    if counted(kind):
        assert row["peak_memory"] > 0
        assert not reasons
    else:
        assert row.get("peak_memory") is None
        assert reasons == [f"not measured: this torch keeps no peak of memory on {kind}"]


@KINDS
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_memory_is_measured_where_it_is_counted(kind: str, phase: str) -> None:
    with FakeAccelerator(kind):
        report = inspector.memory(Net(), "2x3x8x8", phase=phase, measure=True)
    measured = report.to_frame("measured").set_index("quantity")["measured"]
    (note,) = [finding.message for finding in report.findings if "measured on" in finding.message]
    assert (measured > 0).all()
    if counted(kind):
        assert list(measured.index) == ["peak allocated"]
        assert "a fake xpu; predicted are CUDA's kernels" in note
    else:
        assert list(measured.index) == ["tensors", "with the kernels' own"]
        assert note.endswith(f"this torch keeps no peak of memory on {kind}")


def test_no_other_memory_stands_for_that_of_an_accelerator() -> None:
    with pytest.raises(inspector.InspectError, match="no peak of memory on mps"), metered("mps"):
        pass


def test_random_states_of_accelerators_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    put: dict[str, object] = {}
    monkeypatch.setattr(torch.xpu, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.xpu, "get_rng_state_all", lambda: ["of the xpu"])
    monkeypatch.setattr(torch.xpu, "set_rng_state_all", lambda states: put.update(xpu=states))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: "of the mps")
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: put.update(mps=state))
    with random_state():
        assert not put
    assert put == {"xpu": ["of the xpu"], "mps": "of the mps"}
