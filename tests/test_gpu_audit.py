"""The faults that an audit of the CUDA code found, each with a test that needs no GPU (see `fake_gpu`)."""

from __future__ import annotations

import os
import warnings
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.benchmarking import gpu as card_state
from inspector.benchmarking import steps
from inspector.benchmarking.checks import Case, peak
from inspector.benchmarking.precisions import PRECISIONS
from inspector.benchmarking.record import Group, Row
from inspector.benchmarking.run import Bench, Options
from inspector.distributed import evidence, gradients, group
from inspector.distributed.checks import case as ddp
from inspector.distributed.checks import resuming
from inspector.distributed.deterministic import deterministic
from inspector.distributed.job import Job, Place
from inspector.distributed.loop import hits
from inspector.footprint.cublas import LARGE, LT, SMALL, Workspaces
from inspector.footprint.step import Plan, simulate
from inspector.models import as_recipe
from inspector.models.inputs import Inputs, InputSpec, as_inputs
from inspector.pages.report import page
from inspector.profiling import flags, run, timer
from inspector.regress.sweep import measure as measuring
from inspector.reporting.checks import examine
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import Setting
from tests.fake_gpu import A100, CARDS, H100, SLICE, Card, FakeGpu, a_gpu

QUICK = {"batches": [2], "seconds": 0.02, "device": "cuda"}
X = "1x3x8x8"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean((2, 3)))


def rows(report: Any) -> Any:
    return report.to_frame("rows").set_index("precision")


class TestDdp:
    """1, 5, 9 and 14."""

    @pytest.mark.parametrize("local", [0, 1, 3])
    def test_01_each_rank_takes_its_gpu_before_it_joins_the_group(self, local: int) -> None:
        asked: list[Any] = []
        fake = SimpleNamespace(
            TCPStore=lambda *a, **k: "store",
            PrefixStore=lambda *a: "prefixed",
            init_process_group=lambda *a, **k: asked.append(("group", k["device_id"])),
            group=SimpleNamespace(WORLD=object()),
        )
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        with (
            mock.patch.object(group, "dist", fake),
            mock.patch.dict("os.environ", environment),
            mock.patch.object(torch.cuda, "set_device", lambda device: asked.append(("device", device))),
        ):
            group.connect(Place(local, 4, local, f"cuda:{local}"), "nccl", 1.0)
            assert asked == [("device", f"cuda:{local}"), ("group", torch.device("cuda", local))]
            asked.clear()
            group.connect(Place(local, 4, local, "cpu"), "gloo", 1.0)
            assert asked == [("group", None)]

    @pytest.mark.parametrize("alone", ["speed", "unused", "reference"])
    def test_05_one_rank_alone_runs_no_synchronised_norm(
        self, alone: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Waits(nn.SyncBatchNorm):
            def forward(self, x: Tensor) -> Tensor:
                raise AssertionError("it waits for the other ranks")

        model = nn.Sequential(nn.Conv2d(3, 4, 3), Waits(4), nn.Flatten(), nn.Linear(144, 2))
        batch = (torch.randn(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64))
        trainer: Any = SimpleNamespace(
            model=model,
            plain=model,
            place=SimpleNamespace(rank=0, device="cpu"),
            build_optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            autocast=lambda: torch.autocast("cpu", enabled=False),
            call=lambda model, samples: model(samples),
            loss=lambda outputs, labels: nn.functional.cross_entropy(outputs, labels),
            rest=((), {}),
        )
        for room in (evidence, gradients):
            monkeypatch.setattr(room, "first_batches", lambda trainer, count: [batch])
        monkeypatch.setattr(evidence.dist, "barrier", lambda: None)
        if alone == "speed":
            assert evidence.bare_seconds(trainer) > 0
        elif alone == "unused":
            assert gradients.unused(trainer) == []
        else:
            assert gradients._reference(trainer, [[batch], [batch]], torch.float64)

    @pytest.mark.parametrize("outputs", [torch.empty(2, 5, 7), torch.empty(2, 3, 4, 4), torch.empty(2, 5)])
    def test_09_hits_are_on_the_device_of_the_outputs(self, outputs: Tensor) -> None:
        # Language and segmentation models give no (N, C) logits; their labels wait on the CPU.
        labels = torch.zeros(2, dtype=torch.int64)
        assert hits(outputs.to("meta"), labels).device.type == "meta"
        assert float(hits(torch.zeros_like(outputs), labels)) == (2 if outputs.dim() == 2 else 0)

    def test_08_a_gpu_runs_deterministic_kernels_where_there_are_some(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
        with deterministic("cpu") as missing:
            assert not torch.are_deterministic_algorithms_enabled()
        with warnings.catch_warnings(record=True) as others:
            warnings.simplefilter("always")
            with deterministic("cuda:0") as missing:
                assert torch.are_deterministic_algorithms_enabled()
                assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
                for _ in range(2):
                    warnings.warn(
                        "some_backward does not have a deterministic implementation, but", stacklevel=1
                    )
                warnings.warn("something else", stacklevel=1)
        assert missing == ["some_backward"]
        assert [str(other.message) for other in others] == ["something else"]
        assert not torch.are_deterministic_algorithms_enabled()

    @pytest.mark.parametrize(
        ("missing", "loss", "status"),
        [([], 1.0, "fail"), (["x_backward"], 1.001, "warn"), (["x_backward"], 1.1, "fail")],
    )
    def test_08_a_resume_is_compared_within_rounding_and_says_so(
        self, missing: list[str], loss: float, status: str
    ) -> None:
        rank: dict[str, Any] = {
            "nondeterministic": missing,
            "fingerprint": {"sums": [1]},
            "after": {"losses": [3.0, 2.0, 1.0]},
            "resumed": {"sums": [2], "from": 2, "where": "here", "losses": [loss]},
        }
        (finding,) = examine([resuming.resume], ddp.Case(Job("m", "", [], ""), [rank]))
        assert finding.status == status
        assert ("x_backward has no deterministic kernel" in finding.message) == (status == "warn")

    def test_08_the_scale_is_halved_until_gradients_are_finite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # float16 ends at 65,504: a gradient of 10 at a scale of 4,096 is the first that is finite.
        scaler = torch.amp.GradScaler("cpu", init_scale=65_536.0)
        scaler.scale(torch.ones(()))
        trainer: Any = SimpleNamespace(scaler=scaler)

        def parallel(trainer: Any, batches: Any) -> Any:
            scaled = torch.tensor([10.0 * trainer.scaler.get_scale()]).half()
            return {"w": scaled.double() / trainer.scaler.get_scale()}, 1, 1

        monkeypatch.setattr(gradients, "_parallel", parallel)
        with gradients._halved(trainer, []):
            assert scaler.get_scale() == 4_096.0
            assert parallel(trainer, [])[0]["w"].isfinite().all()
        assert scaler.get_scale() == 65_536.0

    def test_14_a_task_that_sees_one_gpu_takes_that_one(self) -> None:
        task = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
        for cards, device in ((1, "cuda:0"), (2, "cuda:1"), (8, "cuda:1")):
            with mock.patch.object(torch.cuda, "device_count", lambda cards=cards: cards):
                place = Place.of(task, "cuda")
                assert (place.device, place.local) == (device, int(device[-1]))
        assert Place.of(task, "cpu").device == "cpu"

    def test_14_memory_is_pinned_for_a_gpu_alone(self) -> None:
        from inspector.core.config import defaults
        from inspector.distributed.data import load

        node, image = defaults().DATA, InputSpec((2, 1, 8, 8))
        node.WORKERS = 0
        with mock.patch.object(torch.cuda, "is_available", return_value=True):
            for pin in (False, True):
                data = load(node, image, 2, 0, 0, 1, pin)
                assert data.train.pin_memory is data.validation.pin_memory is pin


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS.keys())
def test_every_row_runs_on_every_card(card: Card, graph: bool) -> None:
    with a_gpu(card) as gpu:
        table = rows(inspector.bench(Net(), X, cuda_graph=graph, modes=["train"], **QUICK))
    absent = {"tf32", "amp-bf16", "bf16"} if card.capability < (8, 0) else set()
    assert table["reason"]["fp8"]  # of inference alone
    assert set(table.index[table["status"] == "absent"]) == {*absent, "fp8"}
    assert set(table.index) == set(PRECISIONS)
    assert all("compute capability 8.0" in reason for reason in table["reason"].drop("fp8") if reason)
    asked = [name for name, _ in gpu.asked]
    assert asked.count("make_graphed_callables") == (6 - len(absent)) * graph
    assert table["joules_per_sample"].notna().any() == (not card.mig)  # neighbours would be counted


def test_02_the_flush_buffer_is_not_memory_of_the_step() -> None:
    card = Card("NVIDIA H100 80GB HBM3", (9, 0), l2=2**21)  # a buffer of 4 MiB; the net takes some KiB
    with a_gpu(card):
        table = rows(inspector.bench(Net(), X, modes=["infer"], precisions=["fp32", "tf32"], **QUICK))
    assert (table["peak_allocated"] > 0).all()
    assert (table["peak_allocated"] < 2**20).all()


class TestCublas:
    """3: one workspace for each handle, or one for each call."""

    @staticmethod
    def peak(bias: bool, workspaces: Workspaces) -> int:
        trace = inspector.trace(nn.Linear(100, 100, bias=bias), "1x100")
        return simulate(trace, Plan(workspaces=workspaces)).allocated

    # Weight 40,000 -> 40,448 (79 * 512), bias, x and y 400 -> 512 each.
    @pytest.mark.parametrize("kept", [True, False])
    def test_03_the_workspace_is_there_while_a_product_runs(self, kept: bool) -> None:
        assert self.peak(False, Workspaces(SMALL, kept)) == 40_448 + 2 * 512 + 8_519_680
        assert self.peak(False, Workspaces(LARGE, kept)) == 40_448 + 2 * 512 + 32 * 2**20

    def test_03_a_bias_goes_through_cublaslt_where_workspaces_pass(self) -> None:
        assert self.peak(True, Workspaces(SMALL, False)) == 40_448 + 3 * 512 + LT
        assert self.peak(True, Workspaces(SMALL, True)) == 40_448 + 3 * 512 + 8_519_680

    def test_03_a_passing_workspace_is_gone_at_the_next_operator(self) -> None:
        # A product, then 16 MiB: the peak is there, and only a kept workspace is in it.
        class Late(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return (x @ x).sum() + x.new_zeros(4_096, 1_024).sum()

        trace = inspector.trace(Late(), "10x10")
        kept, passing = (simulate(trace, Plan(workspaces=Workspaces(SMALL, k))) for k in (True, False))
        assert kept.allocated - passing.allocated == 8_519_680

    def test_03_torch_is_asked_whether_they_pass(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = torch.backends.cuda
        monkeypatch.setattr(cuda, "cublas_workspace_size", lambda: 123, raising=False)
        monkeypatch.setattr(cuda, "cublaslt_workspace_size", lambda: 45, raising=False)
        monkeypatch.delenv("TORCH_CUBLAS_WORKSPACE_CACHE", raising=False)
        assert Workspaces.of("cuda") == Workspaces(123, False, 45)
        assert [Workspaces.expected(major).nbytes for major in (8, 9, 12)] == [SMALL, LARGE, LARGE]
        monkeypatch.setenv("TORCH_CUBLAS_WORKSPACE_CACHE", "1")
        assert Workspaces.expected(9).kept
        monkeypatch.delenv("TORCH_CUBLAS_WORKSPACE_CACHE")
        monkeypatch.delattr(cuda, "cublas_workspace_size")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
        assert Workspaces.of("cuda") == Workspaces(LARGE, True)
        assert [Workspaces.expected(major).nbytes for major in (8, 9, 12)] == [SMALL, LARGE, SMALL]


class TestFlags:
    """4: the older flags and the newer ones, read by whoever likes."""

    def test_04_a_forward_under_its_own_cudnn_flags_loses_no_row(self) -> None:
        class Own(Net):
            def forward(self, x: Tensor) -> Tensor:
                with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                    return super().forward(x)

        with a_gpu():
            report = inspector.bench(Own(), X, modes=["infer"], **QUICK)
        assert (rows(report)["status"].drop("fp8") == "measured").all()  # 4 and 10 features
        assert not [finding for finding in report.findings if finding.status == "fail"]

    @pytest.mark.parametrize("kind", ["ieee", "tf32"])
    def test_04_both_generations_agree(self, kind: str) -> None:
        with flags.precision(kind):
            assert torch.backends.cuda.matmul.allow_tf32 is (kind == "tf32")
            assert torch.backends.cudnn.allow_tf32 is (kind == "tf32")
            assert torch.get_float32_matmul_precision() == ("high" if kind == "tf32" else "highest")
            compiled = torch.compile(nn.Linear(4, 4), backend="eager")
            assert compiled(torch.randn(2, 4)).shape == (2, 4)  # reads the older flag

    def test_04_what_the_caller_had_mixed_is_put_back(self) -> None:
        if not hasattr(torch.backends, "fp32_precision"):
            pytest.skip("this torch has the older flags only")
        held = flags.read()
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        try:
            mixed = flags.read()
            with flags.precision("ieee"):
                assert flags.leaked(flags.read(), "ieee") == []
            assert flags.read() == mixed
        finally:
            torch.backends.cuda.matmul.fp32_precision = held["cuda.matmul.fp32_precision"]
        assert flags.read() == held

    @pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="older torch")
    def test_04_no_value_is_as_good_as_ieee(self) -> None:
        with flags.precision("ieee"):
            held = flags.read()
            torch.backends.cuda.matmul.fp32_precision = "none"
            assert flags.leaked(held, "ieee") == []


class TestPrecisionOfTimes:
    """6: what is timed beside the benchmark rounds as it says."""

    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            SAW.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
            return self.linear(x)

    @pytest.fixture(autouse=True)
    def _forget(self) -> None:
        SAW.clear()

    @pytest.mark.parametrize("tf32", [False, True])
    def test_06_the_measured_roofline(self, tf32: bool) -> None:
        with a_gpu(H100):
            report = inspector.profile(self.Looks(), "1x4", roofline="h100", measure=True, tf32=tf32)
        assert set(SAW[1:]) == {(tf32, tf32)}
        words = "TF32" if tf32 else "IEEE float32"
        texts = [finding.message for finding in report.findings if "measured on" in finding.message]
        assert any(f"float32 products in {words}" in text for text in texts)
        assert not any("compares two machines" in finding.message for finding in report.findings)

    def test_06_the_times_of_a_page(self) -> None:
        with a_gpu(H100):
            report = page(self.Looks(), "1x4", time="cuda")
        assert (False, False) in SAW
        assert (True, True) not in SAW
        assert "IEEE float32" in dict(report.header)["time"]
        assert timer.place("cpu").startswith("this CPU")

    def test_06_the_latency_of_a_table(self) -> None:
        entry = SimpleNamespace(
            name="looks", spec=self.Looks(), inputs=("1x4",), model_args={}, call="forward", phase="forward"
        )
        model = measuring.live(entry, "cpu", 0)  # type: ignore[arg-type]
        measuring.rounds([model], 2)
        assert set(SAW[1:]) == {(False, False)}

    def test_14_a_table_has_one_flush_buffer(self) -> None:
        entries: Any = [
            SimpleNamespace(
                name=n, spec=self.Looks(), inputs=("1x4",), model_args={}, call="forward", phase="forward"
            )
            for n in "ab"
        ]
        with a_gpu():
            one = measuring.live(entries[0], "cuda", 0)
            assert measuring.live(entries[1], "cuda", 0, one.clock).clock is one.clock


SAW: list[Any] = []


class TestGraphs:
    """10: CUDA graphs."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor, scale: Tensor | None = None, flip: bool = False) -> Tensor:
            y = self.linear(x) * (1.0 if scale is None else scale)
            return -y if flip else y

    def step(self, mode: str, device: str = "cuda") -> steps.Step:
        kwargs = {"scale": torch.full((4,), 3.0), "flip": True}
        return steps.make(self.Two(), (torch.ones(2, 4),), kwargs, PRECISIONS["fp32"], device, mode)

    def test_10_training_keeps_its_keyword_inputs(self) -> None:
        with a_gpu():
            step = self.step("train")
            expected = step.call(*step.args, **step.kwargs)
            steps.graphed(step)
            assert torch.equal(step.call(*step.args, **step.kwargs), expected)
            assert step().isfinite()

    def test_10_unused_parameters_are_allowed_and_pools_shared(self) -> None:
        with a_gpu() as gpu:
            for mode in ("train", "infer"):
                steps.graphed(self.step(mode), "the pool")
        asked = dict(gpu.asked)
        assert asked["make_graphed_callables"] == (0, {"allow_unused_input": True, "pool": "the pool"})
        assert asked["graph"] == (0, "the pool")

    @pytest.mark.parametrize("mode", ["train", "infer"])
    def test_10_a_compiled_step_is_graphed_compiled(self, mode: str) -> None:
        ran = []
        with a_gpu():
            step = self.step(mode)
            inner = step.call
            step.call = lambda *args, **kwargs: ran.append(1) or inner(*args, **kwargs)
            steps.graphed(step)
            step()
        assert ran

    @pytest.mark.parametrize("mode", ["train", "infer"])
    def test_10_the_second_card_records_on_its_own_stream(self, mode: str) -> None:
        with a_gpu(cards=2) as gpu:
            steps.graphed(self.step(mode, "cuda:1"))
            name = "graph" if mode == "infer" else "make_graphed_callables"
            assert dict(gpu.asked)[name][0] == 1
            assert ("synchronize", 0) not in gpu.asked
            assert gpu.current == 0

    def test_14_the_first_call_is_that_before_the_graph(self) -> None:
        class Slow(Net):
            calls = 0

            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x)

        def sleepy(step: Any) -> None:
            inner, left = step.call, [0.3]

            def call(*args: Any, **kwargs: Any) -> Any:
                import time

                time.sleep(left.pop() if left else 0.0)  # compiles
                return inner(*args, **kwargs)

            step.call = call

        options = {**QUICK, "compile": True, "cuda_graph": True, "precisions": ["fp32"]}
        whole = mock.patch.object(steps, "compiled_call", lambda model: model)  # for its drift
        with a_gpu(), whole, mock.patch.object(steps, "compiled", sleepy):
            table = rows(inspector.bench(Slow(), X, modes=["infer"], **options))
        assert table.loc["fp32", "first_call_seconds"] >= 0.3


def test_11_the_float64_run_takes_few_samples() -> None:
    with a_gpu():
        options = {**QUICK, "batches": [32], "precisions": ["fp32"]}
        table = rows(inspector.bench(Net(), X, modes=["infer"], **options))
    assert table.loc["fp32", "top1_samples"] == 8


def test_14_temperatures_are_read_before_energy_is_measured() -> None:
    order: list[str] = []
    state = card_state.GpuState(1, 1, 1, 1.0, (), "", 1)
    with (
        a_gpu(),
        mock.patch.object(card_state, "state", side_effect=lambda *a: order.append("state") or state),
        mock.patch.object(card_state, "joules", side_effect=lambda *a: order.append("joules")),
    ):
        bench = Bench(Net(), lambda n: Inputs((InputSpec((n, 3, 8, 8)),), {}), lambda *a: 1, {},
                      Options("cuda", seconds=0.02))  # fmt: skip
        bench.run([PRECISIONS["fp32"], PRECISIONS["tf32"]], ["infer"], [2])
    assert order == ["state"] * 4 + ["joules"] * 2


def test_14_a_little_over_the_peak_only_warns() -> None:
    # Winograd's F(2x2, 3x3) takes 16 products for 36: up to 2.25 times the peak by counted products.
    for fraction, status in ((1.02, "warn"), (2.2, "warn"), (2.3, "fail")):
        row = Row(PRECISIONS["fp32"], "infer", 2, rejected=fraction)
        findings = examine([peak], Case(Group("infer", 2, [row])))
        assert [finding.status for finding in findings] == [status]


def test_the_fake_counts_what_lives() -> None:
    with FakeGpu(A100, cards=2) as gpu:
        x = torch.empty(100, device="cuda:1")
        assert (x.device.type, gpu.held) == ("cpu", [0, 400])
        del x
        assert gpu.held == [0, 0]
        assert gpu.most == [0, 400]
        assert torch.cuda.get_device_name() == A100.name
    assert not torch.cuda.is_available()
    assert SLICE.mig


class TestCudnnAttention:
    """12: compute capability 9 and 10 take cuDNN's kernel first, masked calls too."""

    class Attend(nn.Module):
        def forward(self, q: Tensor, mask: Tensor | None = None) -> Tensor:
            return nn.functional.scaled_dot_product_attention(q, q, q, mask)

    def kernels(self, gpu: str | None, dtype: str, mask: bool, width: int = 64) -> set[str]:
        q = torch.empty(2, 4, 17, width, dtype=getattr(torch, dtype))
        inputs = (q, torch.ones(17, 17, dtype=torch.bool)) if mask else q
        major = {"a100": 8, "h100": 9}.get(gpu or "")
        setting = Setting(kernels=Kernels("cuda", major=major))
        trace = run.trace(as_recipe(self.Attend()), as_inputs(inputs), setting=setting)
        return {op.name.removeprefix("aten._scaled_dot_product_") for op in trace.ops if op.macs}

    @pytest.mark.parametrize(
        ("gpu", "dtype", "mask", "width", "kernel"),
        [
            ("h100", "float16", False, 64, "cudnn_attention"),
            ("h100", "bfloat16", True, 64, "cudnn_attention"),
            ("h100", "float16", False, 256, "flash_attention"),
            ("h100", "float32", False, 64, "efficient_attention"),
            ("a100", "float16", False, 64, "flash_attention"),
            ("a100", "float16", True, 64, "efficient_attention"),
            (None, "float16", False, 64, "flash_attention"),
        ],
    )
    def test_12_the_kernel_of_each_card(
        self, gpu: str | None, dtype: str, mask: bool, width: int, kernel: str
    ) -> None:
        with mock.patch.object(torch.backends.cudnn, "version", return_value=92000):
            assert self.kernels(gpu, dtype, mask, width) == {kernel}

    def test_12_older_libraries_and_the_environment_keep_flash(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
        assert self.kernels("h100", "float16", False) == {"flash_attention"}
        monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92000)
        monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1")
        assert self.kernels("h100", "float16", False) == {"flash_attention"}
