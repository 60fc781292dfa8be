"""`inspector.benchmarking`: rows, what is absent and why, and that nothing is left behind."""

from __future__ import annotations

import json
import os
from functools import partial
from inspect import signature
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils.benchmark import Timer

import inspector
from inspector.benchmarking import steps
from inspector.benchmarking.checks import Case, fastest
from inspector.benchmarking.drift import Drift, ModuleDrift
from inspector.benchmarking.numerics import _joined
from inspector.benchmarking.precisions import PRECISIONS
from inspector.benchmarking.record import Group, Row
from inspector.benchmarking.run import Bench
from inspector.benchmarking.stats import Interval
from inspector.core.errors import InspectError
from inspector.profiling import flags
from inspector.reporting.report import Report

QUICK = {"batches": [2], "seconds": 0.1, "device": "cpu"}


class Net(nn.Module):
    """MACs a sample: 3*3*3*8 products at each of 8*8 places (13,824), and 8*10 of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))


MACS = 27 * 8 * 64 + 80


def bench(model: object = None, **options: object) -> Report:
    return inspector.bench(model or Net(), "1x3x8x8", **{**QUICK, **options})  # type: ignore[arg-type]


def test_rows_hold_what_was_measured() -> None:
    report = bench(modes=["infer"])
    rows = report.to_frame("rows").set_index("precision")
    assert list(rows.index) == ["fp32", "amp-bf16"]
    assert (rows["status"] == "measured").all()
    assert (rows["macs"] == 2 * MACS).all()
    for _, row in rows.iterrows():
        assert row["samples_per_second"] == pytest.approx(2 / row["latency"])
        assert row["tflops"] == pytest.approx(2 * 2 * MACS / row["latency"] / 1e12)
        assert row["latency_low"] <= row["latency"] <= row["latency_high"]
    assert rows.loc["fp32", "drift"] < 1e-6
    assert 1e-4 < rows.loc["amp-bf16", "drift"] < 5e-2
    assert report.environment["gpu"] is None
    assert report.verdict == "pass"
    assert ("times", "report only: measured on a CPU, they say nothing about a GPU") in report.header


def test_the_report_is_json_and_its_metrics_are_in_no_table_for_people() -> None:
    report = bench()
    content = json.loads(report.to_json())
    assert content["metrics"]["train/2/fp32/macs"]["kind"] == "exact"
    assert content["metrics"]["train/2/fp32/latency"]["kind"] == "noisy"
    assert "infer/2/fp32/latency" not in str(report)
    rounds = report.to_frame("rounds")
    assert set(rounds["precision"]) == {"fp32", "amp-bf16"}
    assert (rounds["seconds"] > 0).all()


def test_the_model_and_the_process_are_as_before() -> None:
    model = Net().eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seed, held, threads = torch.get_rng_state(), flags.read(), torch.get_num_threads()
    bench(model, threads=1)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), seed)
    assert flags.read() == held
    assert torch.get_num_threads() == threads


def test_half_precision_rows_cast_the_model() -> None:
    report = bench(precisions=["fp32", "fp16", "bf16"], modes=["infer"])
    rows = report.to_frame("rows").set_index("precision")
    assert rows.loc["fp16", "matmul_error"] < rows.loc["bf16", "matmul_error"] < 1e-2
    assert rows.loc["fp16", "matmul_error"] > 1e-5


def test_a_precision_that_the_device_lacks_is_absent_with_its_reason() -> None:
    report = bench(precisions=["fp32", "tf32"], modes=["infer"])
    rows = report.to_frame("rows").set_index("precision")
    assert rows.loc["tf32", "status"] == "absent"
    assert "tensor cores" in rows.loc["tf32", "reason"]
    assert "infer/2/tf32/latency" not in report.metrics


def test_out_of_memory_at_one_batch_is_one_absent_row(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Bench.step

    def step(self: Bench, precision: object, mode: str, batch: int) -> object:
        if batch == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return whole(self, precision, mode, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "step", step)
    rows = bench(modes=["infer"], batches=[2, 4], precisions=["fp32"]).to_frame("rows").set_index("batch")
    assert rows.loc[2, "status"] == "measured"
    assert (rows.loc[4, "status"], rows.loc[4, "reason"]) == ("absent", "out of memory")


def test_rows_of_different_batch_are_not_compared() -> None:
    rows = bench(modes=["infer"], batches=[1, 2]).to_frame("rows")
    first = rows[rows["precision"] == "fp32"]
    assert first["speedup"].isna().all()
    assert set(rows[rows["precision"] != "fp32"]["against"]) == {"fp32"}


class Overflows(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 1e6


def test_overflow_is_named_and_fails_only_when_strict() -> None:
    for strict, status, verdict in ((False, "warn", "pass"), (True, "fail", "fail")):
        report = bench(Overflows(), precisions=["fp32", "fp16"], modes=["infer"], strict=strict)
        found = [f for f in report.findings if f.check == "overflow"]
        assert [(f.status, f.subject) for f in found] == [(status, "infer/2/fp16")]
        assert report.verdict == verdict


def test_compile_time_is_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(model: nn.Module, dynamic: bool, **_: object) -> object:
        import time

        def run(*args: object, **kwargs: object) -> object:
            if not seen:
                seen.append(1)
                time.sleep(0.3)  # a compiler at the first call
            return model(*args, **kwargs)

        seen: list[int] = []
        return run

    monkeypatch.setattr(torch, "compile", compiled)
    rows = bench(modes=["infer"], precisions=["fp32"], compile=True).to_frame("rows")
    assert rows.loc[0, "first_call_seconds"] > 0.3
    assert rows.loc[0, "latency"] < 0.1


def test_an_interrupt_keeps_whole_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.benchmarking.precisions import PRECISIONS
    from inspector.benchmarking.report import Session
    from inspector.benchmarking.run import Options
    from inspector.models import as_recipe

    session = Session(as_recipe(Net()), "1x3x8x8", Options("cpu", seconds=0.1), [2])
    calls = []

    def tell(what: str, share: float) -> None:
        calls.append(what)
        if what.startswith("train"):
            raise KeyboardInterrupt

    session.bench.tell = tell
    with pytest.raises(KeyboardInterrupt):
        session.run([PRECISIONS["fp32"]], ["infer", "train"])
    report = session.report(interrupted=True)
    assert report.to_frame("rows")["mode"].tolist() == ["infer"]
    assert report.findings[0].check == "interrupted"
    assert report.verdict == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ["predict"]}, "no mode"),
        ({"batches": [0]}, "a batch of 0"),
        ({"precisions": ["fp33"]}, "no precision"),
        ({"seconds": 0}, "0 seconds"),
        ({"threads": 0}, "0 threads"),
        ({"device": "tpu"}, "cannot measure on"),
        ({"cuda_graph": True}, "CUDA graphs"),
    ],
)
def test_bad_options_are_refused_before_the_work(options: dict, message: str) -> None:
    with pytest.raises(InspectError, match=message) as caught:
        bench(**options)
    assert caught.value.hint


def test_inputs_with_a_batch_of_their_own() -> None:
    rows = inspector.bench(Net(), "3x3x8x8", modes=["infer"], seconds=0.1, device="cpu").to_frame("rows")
    assert set(rows["batch"]) == {3}
    with pytest.raises(InspectError, match="3 samples"):
        inspector.bench(Net(), "3x3x8x8", batches=[2], device="cpu")


@pytest.mark.gpu
def test_the_harness_agrees_with_torchs_own_timer_on_a_gpu() -> None:
    report = inspector.bench("resnet18", batches=[32], precisions=["fp32"], modes=["infer"], seconds=5.0)
    from torchvision.models import resnet18

    model, x = resnet18().cuda().eval(), torch.randn(32, 3, 224, 224, device="cuda")
    with flags.precision("ieee"), torch.inference_mode():
        timer = Timer("model(x)", globals={"model": model, "x": x})
        timer.timeit(20)
        median = timer.blocked_autorange(min_run_time=3).median
    assert report.to_frame("rows").loc[0, "latency"] == pytest.approx(median, rel=0.1)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("graph", [False, True])
def test_every_row_on_a_gpu(mode: str, graph: bool) -> None:
    report = inspector.bench(
        "resnet18", "1x3x64x64", batches=[8], modes=[mode], seconds=3.0, cuda_graph=graph
    )
    rows = report.to_frame("rows").set_index("precision")
    assert (rows["status"] == "measured").all(), rows["reason"].to_dict()
    assert report.verdict == "pass", [f for f in report.findings if f.status == "fail"]
    assert rows.loc["fp32", "conv_error"] < 1e-5 < rows.loc["tf32", "conv_error"]
    assert (rows["peak_allocated"] > 0).all()
    assert (rows["fraction_of_peak"].dropna() < 1).all()


@pytest.mark.gpu
def test_cudnn_in_tf32_is_caught_on_a_gpu() -> None:
    from inspector.benchmarking.checks import IEEE_ERROR
    from inspector.benchmarking.probe import probe

    with flags.precision("tf32"):
        assert probe("cuda", torch.float32, None).conv > IEEE_ERROR
    with flags.precision("ieee"):
        assert probe("cuda", torch.float32, None).conv < IEEE_ERROR


def test_torchs_own_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    # Torch compiles programs for half a minute to see what vectors the compiler knows of.
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.VecISA.check_build", lambda *_: True)
    net, how = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), {"modes": ["infer"], "precisions": ["fp32"]}
    report = inspector.bench(net, "2x8", compile=True, **{**QUICK, **how})  # type: ignore[arg-type]
    (row,) = report.to_frame("rows").to_dict("records")
    assert row["status"] == "measured", row["reason"]
    assert row["drift"] < 1e-6
    assert row["first_call_seconds"] > 100 * row["latency"]  # it compiled
    assert report.environment["compile"]


def test_switches_apart_and_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Two switches: none, each, both; of two precisions. The programs are traced, not compiled.
    compile = partial(torch.compile, backend="aot_eager")
    compile.__signature__ = signature(torch.compile)  # type: ignore[attr-defined]
    monkeypatch.setattr(torch, "compile", compile)
    report = bench(channels_last=True, compile=True, combine=True, modes=["infer"], seconds=0.05)
    rows = report.to_frame("rows").set_index("precision")
    ways = ["", "+channels-last", "+compile", "+channels-last+compile"]
    assert list(rows.index) == [f"{name}{way}" for name in ("fp32", "amp-bf16") for way in ways]
    assert (rows["status"] == "measured").all()
    assert (rows["against"][1:] == "fp32").all()
    assert (rows["drift"][:4] < 1e-6).all()
    assert ((rows["drift"][4:] > 1e-4) & (rows["drift"][4:] < 5e-2)).all()
    assert rows["first_call_seconds"].filter(like="compile").min() > rows["first_call_seconds"]["fp32"]
    assert report.environment["compile"]
    assert not report.environment["cuda_graph"]
    assert set(report.to_frame("drift")["precision"]) == {
        f"{name}{way}" for name in ("fp32", "amp-bf16") for way in ("", "+channels-last")
    }


def test_the_drift_of_a_compiled_row_is_that_of_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # A compiler that gives twice the output: the distance is that of 2 y from y, 1; of layers it is that of
    # the eager model, but for the whole.
    def twice(model: nn.Module, dynamic: bool, **_: object) -> object:
        return lambda *args, **kwargs: 2 * model(*args, **kwargs)

    monkeypatch.setattr(torch, "compile", twice)
    report = bench(modes=["infer", "train"], precisions=["fp32"], compile=True)
    rows = report.to_frame("rows").set_index("mode")
    assert rows["drift"].tolist() == pytest.approx([1.0, 1.0], abs=1e-5)
    assert rows.loc["train", "gradient_drift"] > 1e-2
    layers = report.to_frame("drift").query("mode == 'infer'").set_index("module")["rel_l2"]
    assert layers["(model)"] == pytest.approx(1.0, abs=1e-5)
    assert layers["head"] < 1e-6
    assert "the drift of a compiled row is its own" in str(report)


def test_the_first_call_of_a_row_finds_nothing_that_its_drift_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caches: list[str | None] = []

    def compiled(model: nn.Module, dynamic: bool, **_: object) -> object:
        caches.append(os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
        return model

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "the user's")
    bench(modes=["infer"], precisions=["fp32"], compile=True)
    drift, row = caches
    assert row == "the user's"
    assert drift != row
    assert not Path(str(drift)).exists()


def test_a_compiled_model_that_cannot_run_has_no_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: nn.Module, dynamic: bool, **_: object) -> object:
        def call(*args: object, **kwargs: object) -> object:
            raise RuntimeError("no compiler here")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    report = bench(modes=["infer"], precisions=["fp32"], compile=True)
    (row,) = report.to_frame("rows").to_dict("records")
    assert row["reason"] == "RuntimeError: no compiler here"
    assert row["drift"] is None or row["drift"] != row["drift"]


def test_what_a_compiled_model_overflows_is_the_models_where_no_layer_did() -> None:
    def part(module: str, infs: int) -> ModuleDrift:
        return ModuleDrift(module, "Net", 0.0, 1.0, 0, infs)

    calm = Drift(0.1, "", (part("head", 0), part("(model)", 0)))
    joined = _joined(Drift(None, "2 values are not finite", infs=2), calm)
    assert (joined.first_bad, joined.first_bad_type) == ("(model)", "Net")
    assert [row.infs for row in joined.modules] == [0, 2]
    wild = Drift(None, "", (part("head", 1), part("(model)", 2)), infs=2, first_bad="head")
    assert _joined(Drift(0.1, ""), wild).first_bad is None
    assert _joined(Drift(None, "", infs=2), wild).first_bad == "head"


def test_every_row_is_compiled_for_its_own_batch() -> None:
    # torch keeps 8 programs of a forward and runs the ninth model uncompiled, and compiles the second batch
    # for any batch. Here 3 precisions, 2 modes, 2 batches and the drift of each: 18 programs. Versions that
    # do not count models apart share the 3 of training at batch 2, where drift is measured, too.
    programs: list[list[object]] = []

    def backend(graph: object, examples: list[object]) -> object:
        programs.append(examples)
        return graph.forward  # type: ignore[attr-defined]

    compile = torch.compile
    with mock.patch.object(torch, "compile", wraps=partial(compile, backend=backend)) as wrapped:
        wrapped.__signature__ = signature(compile)
        report = bench(compile=True, precisions=["fp32", "amp-bf16", "bf16"], batches=[2, 3], seconds=0.05)
    assert (report.to_frame("rows")["status"] == "measured").all()
    assert len(programs) == (18 if steps._isolates() else 15)
    assert not any(isinstance(example, torch.SymInt) for examples in programs for example in examples)


def test_the_fastest_row_is_named_with_its_drift() -> None:
    base, fast, doubtful = (Row(PRECISIONS[name], "infer", 2) for name in ("fp32", "amp-bf16", "bf16"))
    fast.speedup, fast.speedup_interval = 2.0, Interval(1.9, 2.1)
    doubtful.speedup, doubtful.speedup_interval = 3.0, Interval(0.9, 9.0)
    fast.drift = Drift(1.5e-3, "")
    (finding,) = fastest(Case(Group("infer", 2, [base, fast, doubtful])))
    assert finding.message == "BF16 autocast is the fastest: 2.00x FP32 (IEEE) at a drift of 1.5e-03"
    assert list(fastest(Case(Group("infer", 2, [base, doubtful])))) == []


def test_nothing_to_combine_is_refused() -> None:
    with pytest.raises(InspectError, match="nothing to combine"):
        bench(combine=True)
