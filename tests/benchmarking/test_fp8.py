"""The FP8 row: its arithmetic for real on the CPU, its control flow and its refusals on a fake card."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.benchmarking import fp8
from inspector.benchmarking.drift import Drift
from inspector.benchmarking.numerics import Numerics
from inspector.benchmarking.precisions import PRECISIONS, unavailable
from inspector.tracing import _torch
from tests.fake_gpu import A100, H100, SLICE, T4, Card, FakeAccelerator, a_gpu

L4 = Card("NVIDIA L4", (8, 9))
QUICK = {"batches": [2], "seconds": 0.02}


class Net(nn.Module):
    """Two layers for FP8, used twice, and a head of 10 outputs that FP8 does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(32, 48), nn.Linear(48, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu())
        return self.head(self.second(x).relu())


def bench(card: Card, model: nn.Module | None = None, **options: Any) -> Any:
    with a_gpu(card):
        return inspector.bench(model or Net(), "1x32", amp=True, device="cuda", **{**QUICK, **options})


def test_values_are_divided_by_a_scale_that_puts_the_largest_at_448() -> None:
    values, scale = fp8.scaled(torch.tensor([[-896.0, 2.0, 7.0]]))
    assert float(scale) == 2.0
    assert values.float().tolist() == [[-448.0, 1.0, 3.5]]  # all held by 3 bits after the point
    zeros, scale = fp8.scaled(torch.zeros(2, 2))
    assert float(scale) > 0
    assert not zeros.float().any()


def test_a_layer_is_exact_where_the_format_is() -> None:
    # Powers of two are held by FP8 and by bfloat16; 16 products of 2 x 0.5, and a bias of 4.
    linear = nn.Linear(16, 16)
    nn.init.constant_(linear.weight, 0.5)
    nn.init.constant_(linear.bias, 4.0)
    result = fp8.ScaledLinear(linear)(torch.full((2, 3, 16), 2.0))
    assert (result.shape, result.dtype) == ((2, 3, 16), torch.bfloat16)
    assert (result == 20.0).all()


def test_its_drift_is_that_of_three_bits() -> None:
    # Inputs rounded to 4 significant bits are off by up to 2**-4 and about 2**-4 / sqrt(3) = 0.036 at most on
    # average; three layers in a row add up to a few times a part of that. BF16 has 8 bits.
    torch.manual_seed(0)
    truth = Numerics.make(Net().eval(), (torch.randn(8, 32),), {}, "infer")
    drifts = [truth.drift(PRECISIONS[name]) for name in ("fp8", "amp-bf16")]
    assert all(isinstance(drift, Drift) for drift in drifts)
    low, high = 0.01, 0.2
    assert low < drifts[0].rel_l2 < high  # type: ignore[union-attr,operator]
    assert drifts[1].rel_l2 < 0.01  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("card", [H100, L4, SLICE])
def test_a_card_that_has_it_runs_it_in_inference_with_its_drift(card: Card) -> None:
    report = bench(card)
    rows = report.to_frame("rows").set_index(["mode", "precision"])
    row = rows.loc["infer", "fp8"]
    assert row["status"] == "measured"
    assert 0.01 < row["drift"] < 0.2
    peak = {H100: 1978.9, L4: 242.5}.get(card)  # dense, of the makers' documents
    if peak is None:  # what a slice of a card can do is not known
        assert row["fraction_of_peak"] is None or row["fraction_of_peak"] != row["fraction_of_peak"]
    else:
        assert row["fraction_of_peak"] == pytest.approx(row["tflops"] / peak)
    assert ("FP8", "2 of 3 Linear layers, the rest in BF16") in report.header
    assert rows.loc["train", "fp8"]["reason"] == (
        "FP8 rows are of inference: torch's scaled products have no gradient"
    )


@pytest.mark.parametrize(("card", "has"), [(A100, "8.0"), (T4, "7.5")])
def test_an_older_card_has_none(card: Card, has: str) -> None:
    rows = bench(card, modes=["infer"]).to_frame("rows").set_index("precision")
    assert rows.loc["fp8", "status"] == "absent"
    assert rows.loc["fp8", "reason"] == f"FP8 needs compute capability 8.9; this device has {has}"
    assert rows.loc["fp32", "status"] == "measured"


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1)), "1x3x4x4", "the model has no Linear layer"),
        (nn.Sequential(nn.Linear(10, 32), nn.Linear(32, 10)), "1x10", "multiples of 16 on both sides"),
        (nn.Linear(32, 32), "1x32", "put it in a module"),
    ],
)
def test_a_model_without_such_layers_has_none(model: nn.Module, inputs: str, reason: str) -> None:
    with a_gpu(H100):
        report = inspector.bench(
            model, inputs, precisions=["fp32", "fp8"], modes=["infer"], device="cuda", **QUICK
        )
    rows = report.to_frame("rows").set_index("precision")
    assert rows.loc["fp8", "status"] == "absent"
    assert reason in rows.loc["fp8", "reason"]


def test_other_devices_and_torchs_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    row = PRECISIONS["fp8"]
    assert unavailable(row, "cpu") == "FP8 products are run on NVIDIA GPUs alone"
    with FakeAccelerator("xpu"):
        assert unavailable(row, "xpu")
    with a_gpu(H100):
        assert unavailable(row, "cuda") == ""
        monkeypatch.setattr(torch.version, "hip", "6.0")
        assert "NVIDIA" in unavailable(row, "cuda")
        monkeypatch.setattr(torch.version, "hip", None)
        monkeypatch.setattr(_torch, "scaled_product", None, raising=False)
        assert unavailable(row, "cuda") == "this torch has no scaled products"


def test_shared_layers_stay_shared_and_derived_ones_are_left_alone() -> None:
    class Own(nn.Linear):
        pass

    shared = nn.Linear(16, 16, bias=False)
    model = nn.ModuleList(
        [shared, nn.Sequential(shared), Own(16, 16), nn.Linear(16, 8), nn.Linear(16, 16).half()]
    )
    fp8.put_in(model)
    assert isinstance(model[0], fp8.ScaledLinear)
    assert model[1][0] is model[0]
    assert model[0].bias is None
    assert [type(layer) for layer in model[2:]] == [Own, nn.Linear, nn.Linear]
    assert fp8.counted(model) == (1, 4)
