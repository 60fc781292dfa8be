"""Each cause on a model of one layer, its amount derived by hand, and nothing left unexplained.

In every case `amounts(...)` gives the sum of each cause in MACs, without what is left over: the test
then holds the remainder against zero, so that a rule that is wrong shows up twice.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import flop_registry

from inspector.counters.record import CAUSES
from inspector.counters.report import reconcile

FUSED_ATTENTION_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu in flop_registry


def amounts(counter: str, model: nn.Module, inputs: Any, phase: str = "forward") -> dict[str, int]:
    report = reconcile(model.eval(), inputs, counters=[counter], phase=phase)
    rows = report.to_frame("counters").set_index("counter")
    assert rows.loc[counter, "status"] == "ok", rows.loc[counter, "message"]
    sums: dict[str, int] = defaultdict(int)
    for row in report.to_frame("differences").to_dict("records"):
        if row["counter"] == counter:
            sums[row["cause"]] += row["amount"]
    assert sums.pop("unexplained", 0) == 0
    assert list(rows.loc[["ours", counter], "unexplained"]) == [0, 0]
    assert sum(sums.values()) == rows.loc[counter, "difference"]
    assert set(sums) <= set(CAUSES)
    return dict(sums)


class Attend(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(q, k, v)


class SelfAttend(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Borrows(nn.Module):
    """Uses the weight of a submodule that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.inner.weight, self.inner.bias)


class MyLinear(nn.Linear):
    pass


class Product(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


class Einsum(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("bhid,bhjd->bhij", a, b)


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(4, 3)
        self.first, self.second = nn.Sequential(layer), nn.Sequential(layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


class Auxiliary(nn.Module):
    """A head that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.extra = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return (self.head(x), self.extra(x)) if self.training else self.head(x)


# Elements of 1x3x4x4: 48. thop's calculate_norm gives 2 per element, count_normalization twice that for
# affine; fvcore: batch norm in eval 1 + affine, every other norm 4 + affine.
NORMS = [
    ("thop", nn.BatchNorm2d(3), "1x3x4x4", 4 * 48),
    ("thop", nn.BatchNorm2d(3, affine=False), "1x3x4x4", 2 * 48),
    ("thop", nn.InstanceNorm2d(3), "1x3x4x4", 2 * 48),
    ("thop", nn.LayerNorm(4), "2x4", 4 * 8),
    ("fvcore", nn.BatchNorm2d(3), "1x3x4x4", 2 * 48),
    ("fvcore", nn.BatchNorm2d(3, affine=False), "1x3x4x4", 48),
    ("fvcore", nn.BatchNorm2d(3, track_running_stats=False), "2x3x4x4", 5 * 96),
    ("fvcore", nn.InstanceNorm2d(3), "1x3x4x4", 4 * 48),
    ("fvcore", nn.InstanceNorm2d(3, affine=True), "1x3x4x4", 5 * 48),
    ("fvcore", nn.LayerNorm(4), "2x4", 5 * 8),
    ("fvcore", nn.LayerNorm(4, elementwise_affine=False), "2x4", 4 * 8),
    ("fvcore", nn.GroupNorm(1, 3), "1x3x4x4", 5 * 48),
]


@pytest.mark.parametrize(("counter", "norm", "shape", "amount"), NORMS, ids=str)
def test_normalisation_is_counted_by_the_element(
    counter: str, norm: nn.Module, shape: str, amount: int
) -> None:
    assert amounts(counter, norm, shape) == {"counts normalisation": amount}


POINTWISE = [
    # 16 input elements for each of 3 outputs, and the division: 17 * 3.
    ("thop", nn.AdaptiveAvgPool2d(1), "1x3x4x4", 51),
    ("thop", nn.AdaptiveAvgPool1d(2), "1x3x4", (2 + 1) * 6),
    ("thop", nn.AvgPool2d(2), "1x3x4x4", 12),  # outputs
    ("thop", nn.PReLU(), "1x3x4x4", 48),
    ("thop", nn.Softmax(1), "2x4", 2 * (4 + 3 + 4)),  # exponentials, additions, divisions
    ("thop", nn.Softmax(0), "2x4", 4 * (2 + 1 + 2)),
    ("thop", nn.Upsample(scale_factor=2, mode="bilinear"), "1x3x4x4", 11 * 192),
    ("thop", nn.Upsample(scale_factor=2), "1x3x4x4", 192),
    ("thop", nn.UpsamplingNearest2d(scale_factor=2), "1x3x4x4", 192),
    ("fvcore", nn.AdaptiveAvgPool2d(1), "1x3x4x4", 48),
    ("fvcore", nn.AdaptiveAvgPool2d(2), "1x3x4x4", 48),
    ("fvcore", nn.Upsample(scale_factor=2, mode="bilinear"), "1x3x4x4", 4 * 192),
    ("fvcore", nn.Upsample(scale_factor=2), "1x3x4x4", 192),
    # 10 steps of 4 hidden units: 4 gates of h and two biases each (4h + 8h), 3h and h of products: 16h.
    ("thop", nn.LSTM(3, 4, batch_first=True), "2x5x3", 10 * 64),
    # Layer 2 reads both directions, and adds the same: 2 layers x 2 directions.
    ("thop", nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True), "2x5x3", 40 * 64),
    ("thop", nn.LSTM(3, 4, bias=False, batch_first=True), "2x5x3", 10 * 32),
    ("thop", nn.GRU(3, 4, batch_first=True), "2x5x3", 10 * 13 * 4),  # 9h of gates, h, 3h
    ("thop", nn.RNN(3, 4, batch_first=True), "2x5x3", 10 * 3 * 4),
    ("thop", nn.LSTMCell(3, 4), "2x3", 2 * 64),
]


@pytest.mark.parametrize(("counter", "layer", "shape", "amount"), POINTWISE, ids=str)
def test_other_pointwise_work_is_counted(counter: str, layer: nn.Module, shape: str, amount: int) -> None:
    assert amounts(counter, layer, shape) == {"counts other pointwise work": amount}


@pytest.mark.parametrize("counter", ["thop", "fvcore", "torch"])
def test_attention_without_a_formula(counter: str) -> None:
    # 2 heads, 5 x 5 scores of width 4, and as much for the values: 2 * (100 + 100).
    found = amounts(counter, Attend(), ["1x2x5x4"] * 3)
    if counter == "torch" and FUSED_ATTENTION_ON_CPU:
        assert found == {"convention factor 2": 400}
    else:
        assert found == {"no formula for attention": -400}


# Self-attention of 5 tokens of width 4: 4 projections of 5 * 16, and 2 * 5 * 5 * 4 of attention.
PROJECTIONS, PRODUCTS = 4 * 80, 200


@pytest.mark.parametrize("counter", ["fvcore", "torch"])
def test_the_fast_path_of_multi_head_attention_is_opaque(counter: str) -> None:
    assert amounts(counter, SelfAttend(), "1x5x4") == {"fast path opaque": -(PROJECTIONS + PRODUCTS)}


def test_thop_has_no_rule_for_multi_head_attention() -> None:
    assert amounts("thop", SelfAttend(), "1x5x4") == {"no formula for attention": -(PROJECTIONS + PRODUCTS)}


def test_the_fast_path_of_an_encoder_layer_hides_its_children() -> None:
    # And two linear layers of 5 * 4 * 8.
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True)
    assert amounts("torch", layer, "1x5x4") == {"fast path opaque": -(PROJECTIONS + PRODUCTS + 320)}


def test_the_fused_lstm_of_the_cpu_is_opaque_to_torch() -> None:
    # 10 steps of 16 x (3 + 4).
    assert amounts("torch", nn.LSTM(3, 4, batch_first=True), "2x5x3") == {"fast path opaque": -1120}


def test_fvcore_has_no_formula_for_an_lstm() -> None:
    found = amounts("fvcore", nn.LSTM(3, 4, batch_first=True), "2x5x3")
    assert found == {"no formula for this operator": -1120}


def test_operators_without_a_formula() -> None:
    # (3, 4) times (4): 12; (2, 3) times (3, 5): 30.
    assert amounts("torch", Product(), ["3x4", "4"]) == {"no formula for this operator": -12}
    assert amounts("thop", Product(), ["2x3", "3x5"]) == {"no formula for this operator": -30}


@pytest.mark.parametrize(
    ("layer", "ours", "theirs"),
    [
        # 48 inputs times 8 * 4; thop: 8 * 64 outputs times 3 * 4.
        (nn.ConvTranspose2d(3, 8, 2, stride=2), 1536, 6144),
        # 64 inputs times 4 * 4; thop: 8 * 64 outputs times 2 * 4.
        (nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2), 1024, 4096),
    ],
)
def test_a_transposed_convolution_is_over_counted_by_stride_squared(
    layer: Any, ours: int, theirs: int
) -> None:
    assert theirs == 2**2 * ours
    found = amounts("thop", layer, f"1x{layer.in_channels}x4x4")
    assert found == {"transposed convolution over-counted by its stride": theirs - ours}
    assert amounts("fvcore", layer, f"1x{layer.in_channels}x4x4") == {}


def test_the_weight_gradient_of_a_grouped_convolution_is_groups_times_too_large() -> None:
    # 36 outputs times 2 * 9, forward and for the weight; torch takes 2 groups for one: 648 + 2 * 648.
    layer = nn.Conv2d(4, 4, 3, groups=2)
    found = amounts("torch", layer, "1x4x5x5", phase="train")
    assert found == {"grouped weight gradient": 648, "convention factor 2": 648 + 2 * 648}
    # Transposed: 64 inputs times 4 * 4, the same twice.
    found = amounts("torch", nn.ConvTranspose2d(4, 8, 2, stride=2, groups=2), "1x4x4x4", phase="train")
    assert found == {"grouped weight gradient": 1024, "convention factor 2": 1024 + 2 * 1024}


@pytest.mark.skipif(not FUSED_ATTENTION_ON_CPU, reason="this torch has no formula for attention on the CPU")
def test_a_fused_attention_computes_the_scores_again_in_the_backward() -> None:
    # One more product of 2 * 5 * 5 * 4. Forward 400, backward 800 + 200.
    inputs = tuple(torch.ones(1, 2, 5, 4, requires_grad=True) for _ in range(3))
    found = amounts("torch", Attend(), inputs, phase="train")
    assert found == {"attention computed again in the backward": 200, "convention factor 2": 1400}


@pytest.mark.parametrize("counter", ["thop", "fvcore"])
def test_a_counter_of_the_forward_has_no_backward_and_no_submodule_of_training(counter: str) -> None:
    # Of 5 rows: head 5 * 12, extra 5 * 8. Backward: the weights only, the input needs no gradient.
    found = amounts(counter, Auxiliary(), "5x4", phase="train")
    assert found == {"unused submodule": -40, "backward not counted": -100}


def test_a_batch_that_is_not_there_is_misread() -> None:
    # 4 * 36 outputs x 27; thop takes the height, 8, for the 3 channels: 4 * 36 * 8 * 9.
    found = amounts("thop", nn.Conv2d(3, 4, 3), "3x8x8")
    assert found == {"input without a batch misread": 4 * 36 * (72 - 27)}
    # 5 steps of 4 * 8 * (3 + 8) and of 16 * 8 for gates; thop takes the 3 features for the batch.
    once, gates = 5 * 352, 5 * 128
    found = amounts("thop", nn.LSTM(3, 8), "5x3")
    assert found == {
        "counts other pointwise work": gates,
        "input without a batch misread": 2 * (once + gates),
    }


def test_fvcore_has_no_formula_for_a_padding_given_by_name() -> None:
    # 2 * 4 * 9 outputs x 9.
    found = amounts("fvcore", nn.Conv1d(3, 4, 3, padding="same"), "2x3x9")
    assert found == {"no formula for this operator": -648}


def test_spectral_norm_works_in_training_only() -> None:
    # A power iteration is two products of the 5 x 5 weight and a vector.
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5))
    assert amounts("fvcore", layer, "1x5", phase="train")["training does more here"] == -2 * 25


def test_torch_means_two_for_each_multiply_add() -> None:
    assert amounts("torch", nn.Linear(3, 4), "2x3") == {"convention factor 2": 24}


def test_weights_used_without_calling_their_module() -> None:
    assert amounts("thop", Borrows(), "2x4") == {"weights used without calling their module": -24}
    assert amounts("fvcore", Borrows(), "2x4") == {}


def test_thop_knows_classes_by_their_exact_type() -> None:
    assert amounts("thop", MyLinear(4, 3), "2x4") == {"no rule for this class of module": -24}
    assert amounts("thop", nn.Linear(4, 3), "2x4") == {}


def test_thop_counts_a_shared_module_once_for_each_parent() -> None:
    # Two calls of 24 are 48. Two names: two hooks at each call, and the sum of 96 under both names.
    assert amounts("thop", Shared(), "2x4") == {"shared module counted for each parent": 2 * 96 - 48}


def test_fvcore_leaves_out_the_batch_of_the_second_matrix() -> None:
    # (3, 4) times (5, 4, 6): 5 * 3 * 6 * 4 are 360, fvcore counts 3 * 4 * 6.
    found = amounts("fvcore", Product(), ["3x4", "5x4x6"])
    assert found == {"broadcast product without its batch": 72 - 360}
    assert amounts("fvcore", Product(), ["5x3x4", "4x6"]) == {}
    assert amounts("fvcore", Product(), ["2x5x3x4", "5x4x6"]) == {}


def test_fvcore_reads_an_einsum_from_four_digits() -> None:
    # 3 * 37 * 41 * 11 = 50061; NumPy prints 100122 as 1.001e+05, half of it is 50050.
    assert amounts("fvcore", Einsum(), ["1x3x37x11", "1x3x41x11"]) == {"rounded figure": -11}


@pytest.mark.parametrize("counter", ["thop", "fvcore", "torch"])
def test_where_all_agree_there_is_nothing_to_explain(counter: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=True), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    found = amounts(counter, model, "1x3x4x4")
    assert found == ({"convention factor 2": 4 * 4 * 27 + 32} if counter == "torch" else {})


# Optional counters: their rules on what the counter would say, then, where installed, on what it says.


def optional(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install {name}")


def test_torchinfo_counts_a_linear_once_per_sample() -> None:
    optional("torchinfo")
    # 2 samples of 5 tokens: ours 10 * 12, torchinfo 2 * (12 + 3).
    found = amounts("torchinfo", nn.Linear(4, 3), "2x5x4")
    assert found == {"Linear counted once per sample": -96, "counts bias": 6}


def test_torchinfo_on_other_layers() -> None:
    optional("torchinfo")
    assert amounts("torchinfo", nn.BatchNorm2d(3), "2x3x4x4") == {"counts normalisation": 2 * 6}
    assert amounts("torchinfo", nn.Embedding(7, 4), "int64[2,5]") == {"counts embedding": 2 * 28}
    # 2 * 2 outputs for each of 5 filters: the bias.
    assert amounts("torchinfo", nn.Conv2d(3, 5, 3), "1x3x4x4") == {"counts bias": 20}
    found = amounts("torchinfo", nn.ConvTranspose2d(3, 8, 2, stride=2, bias=False), "1x3x4x4")
    assert found == {"transposed convolution over-counted by its stride": 96 * 64 - 1536}
    found = amounts("torchinfo", SelfAttend(), "1x5x4")
    assert found == {"no formula for attention": -(PROJECTIONS + PRODUCTS)}


@pytest.mark.parametrize("counter", ["calflops", "deepspeed"])
def test_counters_that_replace_functions(counter: str) -> None:
    optional(counter)
    found = amounts(counter, SelfAttend(), "1x5x4")
    assert found == ({"no formula for attention": -PRODUCTS} if counter == "calflops" else {})
    assert amounts(counter, nn.Linear(4, 3), "2x5x4") == {}
    found = amounts(counter, nn.LSTM(3, 4, batch_first=True), "2x5x3")
    assert found == {"no formula for this operator": -1120}


def test_ptflops_gives_a_total_only_and_the_report_says_so() -> None:
    optional("ptflops")
    # A linear layer with its bias, 2 samples of 15, as a mean over the batch; ours is 2 * 12.
    report = reconcile(nn.Linear(4, 3), "2x4", counters=["ptflops"])
    row = report.to_frame("counters").set_index("counter").loc["ptflops"]
    assert (row["macs"], row["difference"], row["unexplained"]) == (15, -9, 9)
    assert any(f.subject == "ptflops" and "it gives a total only" in f.message for f in report.findings)
