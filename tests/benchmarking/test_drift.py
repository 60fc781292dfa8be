"""Drift against values derived by hand: what a format rounds away is known exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from inspector.benchmarking.drift import Drift, Reference
from inspector.benchmarking.numerics import Numerics
from inspector.benchmarking.precisions import PRECISIONS
from inspector.models.determinate import cast, quiet, random
from inspector.models.loss import loss_of


def drift(
    model: nn.Module,
    x: Tensor,
    dtype: torch.dtype = torch.float16,
    mode: str = "infer",
    scale: float = 1.0,
    loss: Any = loss_of,
) -> Drift:
    import copy

    reference = Reference.make(copy.deepcopy(model).double(), (x.double(),), {}, mode, loss)
    return reference.compare(copy.deepcopy(model).to(dtype), (x.to(dtype),), {}, autocast=None, scale=scale)


def linear(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def test_values_that_the_format_holds_do_not_drift() -> None:
    found = drift(linear([[1.0, 2.0], [0.5, -4.0]]), torch.tensor([[1.0, 0.25]]))
    assert found.rel_l2 == 0.0
    assert found.reason == ""


def test_a_weight_that_is_rounded_drifts_by_what_is_lost() -> None:
    """1 + 2**-12 becomes 1 in float16 (10 bits after the point): lost is 2**-12 of 1 + 2**-12."""
    found = drift(linear([[1.0 + 2.0**-12]]), torch.ones(1, 1))
    assert found.rel_l2 == pytest.approx(2.0**-12 / (1 + 2.0**-12), rel=1e-9)


def test_an_overflow_is_counted_at_its_layer() -> None:
    """40000 + 40000 is more than 65504, the largest float16; the layer after gets infinity - infinity."""
    model = nn.Sequential(linear([[40000.0, 40000.0]]), linear([[1.0], [-1.0]]), linear([[1.0, 1.0]]))
    found = drift(model, torch.ones(1, 2))
    rows = {row.module: row for row in found.modules}
    assert (found.first_bad, found.first_bad_type) == ("0", "Linear")
    assert (rows["0"].infs, rows["0"].nans, rows["0"].max_abs) == (1, 0, 80000.0)
    assert rows["1"].infs == 2
    assert rows["2"].nans == 1
    assert found.rel_l2 is None
    assert "not finite" in found.reason


def test_a_zero_output_has_no_relative_drift() -> None:
    found = drift(linear([[0.0, 0.0]]), torch.ones(1, 2))
    assert found.rel_l2 is None
    assert found.reason == "the reference output is zero"


def test_tied_samples_are_left_out_of_top1() -> None:
    """Sample 0 ties in float64; sample 1 is clear; sample 2 is decided by bits that float16 loses."""
    x = torch.tensor([[1.0, 1.0], [2.0, 1.0], [1.0, 1.0 + 2.0**-12]])
    found = drift(nn.Identity(), x)
    assert found.top1 == (1, 2)


class PutsInPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.relu = linear([[1.0], [-1.0]]), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.layer(x))


def test_a_later_layer_in_place_does_not_change_the_record() -> None:
    """The linear layer gives (1, -1), of norm sqrt(2); the ReLU after it overwrites -1."""
    found = drift(PutsInPlace(), torch.full((1, 1), 1.0 + 2.0**-12))
    rows = {row.module: row for row in found.modules}
    assert rows["layer"].max_abs == pytest.approx(1.0 + 2.0**-12)
    assert rows["layer"].rel_l2 == pytest.approx(2.0**-12 / (1 + 2.0**-12))
    assert [row.module for row in found.worst] == ["layer", "relu"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = linear([[1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer(x * 4)


def test_calls_of_one_module_add_up() -> None:
    """a and 4a with a = 1 + 2**-12 are rounded to 1 and 4: the error is 2**-12 |(1, 4)| of a |(1, 4)|."""
    found = drift(Twice(), torch.full((1, 1), 1.0 + 2.0**-12))
    row = next(row for row in found.modules if row.module == "layer")
    assert row.rel_l2 == pytest.approx(2.0**-12 / (1 + 2.0**-12))


def test_gradients_by_hand_and_the_loss_scale() -> None:
    """y = w x with w = 1, x = 1 + 2**-12: dy/dw = x, rounded to 1 in float16, whatever the scale."""
    x = torch.full((1, 1), 1.0 + 2.0**-12)
    for scale in (1.0, 1024.0):
        found = drift(linear([[1.0]]), x, mode="train", scale=scale, loss=lambda out: out.sum())
        assert found.grad_rel_l2 == pytest.approx(2.0**-12 / (1 + 2.0**-12))
        assert [row.module for row in found.grads] == ["weight"]


class Grows(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.dtype is torch.float64 else torch.cat([x, x])


def test_other_shapes_are_not_compared() -> None:
    found = drift(Grows(), torch.ones(2, 3))
    assert found.rel_l2 is None
    assert found.reason.startswith("shapes differ")


class NoDouble(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is torch.float64:
            raise RuntimeError("only single precision\nhere")
        return x


def test_a_model_that_cannot_run_in_float64_has_its_reason() -> None:
    found = drift(NoDouble(), torch.ones(1, 2))
    assert found.reason == "the model cannot run in float64: only single precision"


def test_states_are_as_before() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model.eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    seed = torch.get_rng_state()
    Numerics.make(model, (torch.randn(8, 4),), {}, "train").drift(PRECISIONS["amp-bf16"])
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    torch.manual_seed(0)
    torch.set_rng_state(seed)


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, 0.5, self.training)


@pytest.mark.parametrize(
    ("model", "draws"),
    [
        (nn.Dropout(0.5), False),
        (nn.Sequential(nn.Linear(8, 8), nn.AlphaDropout(0.3)), False),
        (torchvision.ops.StochasticDepth(0.5, "row"), False),
        (nn.RReLU(), False),
        (nn.LSTM(8, 8, 2, dropout=0.5), False),
        (FunctionalDropout(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_dropout_modules_are_quieted_and_functions_are_noticed(model: nn.Module, draws: bool) -> None:
    model.train()
    quiet(model)
    assert random(model, (torch.randn(6, 8),), {}, "train") is draws


def test_buffers_and_draws_are_restored_by_the_test_for_draws() -> None:
    model, before = nn.BatchNorm1d(3), torch.get_rng_state()
    random(model, (torch.randn(5, 3, generator=torch.Generator().manual_seed(1)),), {}, "train")
    assert torch.equal(model.running_mean, torch.zeros(3))
    assert int(model.num_batches_tracked) == 0
    assert torch.equal(torch.get_rng_state(), before)


def test_cast_copies_and_leaves_integers() -> None:
    x, index = torch.ones(2, requires_grad=True), torch.tensor([1])
    y, same, text = cast((x, index, "text"), torch.bfloat16)
    assert (y.dtype, same.dtype, text) == (torch.bfloat16, torch.int64, "text")
    assert y.requires_grad
    assert same is not index


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("fp32", 2e-8, 2e-6), ("fp16", 2e-4, 3e-3), ("bf16", 1e-3, 3e-2), ("amp-bf16", 1e-3, 3e-2)],
)
def test_resnet18_drifts_by_a_few_roundoffs(name: str, low: float, high: float) -> None:
    """Unit roundoffs are 2**-24, 2**-11 and 2**-8; over 20 layers they add up to a few times that."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18().eval()
    truth = Numerics.make(model, (torch.randn(2, 3, 64, 64),), {}, "infer")
    found = truth.drift(PRECISIONS[name])
    assert isinstance(found, Drift)
    assert found.rel_l2 is not None
    assert low < found.rel_l2 < high
    assert found.worst
    assert all(row.type != "BasicBlock" for row in found.worst)


def test_outputs_of_other_forms() -> None:
    detector = torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None
    ).eval()
    truth = Numerics.make(detector, ([torch.rand(3, 64, 64)],), {}, "infer")
    assert truth.why == ""
    assert isinstance(truth.drift(PRECISIONS["fp32"]), Drift)
    coder = nn.Transformer(16, 2, 1, 1, 32, batch_first=True).eval()
    given = (torch.randn(2, 5, 16), torch.randn(2, 4, 16))
    found = Numerics.make(coder, given, {}, "infer").drift(PRECISIONS["amp-bf16"])
    assert isinstance(found, Drift)
    assert found.rel_l2 is not None
    assert 1e-4 < found.rel_l2 < 1e-1


def test_a_loss_scale_that_overflows_is_halved() -> None:
    """The gradient of w is 2: times 65536 it is infinite in float16, at 2**14 it is finite."""
    model = linear([[1.0]])
    truth = Numerics(model, (torch.full((1, 1), 2.0),), {}, "train")
    truth = Numerics.make(model, truth.args, {}, "train")
    found = truth.drift(PRECISIONS["amp-fp16"])
    assert isinstance(found, Drift)
    assert found.grad_rel_l2 is not None
    assert math.isfinite(found.grad_rel_l2)
