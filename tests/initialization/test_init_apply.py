"""Applying a scheme: the bytes are torch.nn.init's and fvcore's, and nothing else is touched."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from fvcore.nn import weight_init
from torch import nn
from torch.nn import init

from inspector.core.errors import InspectError
from inspector.initialization.apply import apply
from inspector.initialization.expect import expect


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.norm = nn.BatchNorm2d(8)
        self.words = nn.Embedding(20, 6)
        self.lstm = nn.LSTM(6, 6)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 10)


WRITTEN = ("conv.weight", "up.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight")

CALLS = {
    "kaiming_uniform": lambda t: init.kaiming_uniform_(t, a=1),
    "kaiming_normal": lambda t: init.kaiming_normal_(t, nonlinearity="relu"),
    "xavier_uniform": init.xavier_uniform_,
    "xavier_normal": init.xavier_normal_,
    "trunc_normal": lambda t: init.trunc_normal_(t, std=0.02),
    "normal": lambda t: init.normal_(t, std=0.02),
    "orthogonal": init.orthogonal_,
    "zeros": init.zeros_,
    "ones": init.ones_,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scheme", CALLS)
def test_bytes_are_those_of_torch_nn_init(scheme: str, dtype: torch.dtype) -> None:
    if scheme == "orthogonal" and dtype in (torch.bfloat16, torch.float16):
        pytest.skip("torch's QR has no half precision")
    model = Net().to(dtype)
    reference = copy.deepcopy(model)
    apply(model, scheme, seed=7)
    torch.manual_seed(7)
    with torch.no_grad():
        for name in WRITTEN:
            CALLS[scheme](reference.get_parameter(name))
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


@pytest.mark.parametrize("fill", ["c2_xavier_fill", "c2_msra_fill"])
def test_bytes_are_those_of_fvcore(fill: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 10), nn.ConvTranspose2d(4, 4, 2, bias=False))
    reference = copy.deepcopy(model)
    apply(model, fill, seed=3)
    torch.manual_seed(3)
    for layer in reference:
        getattr(weight_init, fill)(layer)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters()))


def test_default_gives_the_bytes_of_reset_parameters() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 10), nn.ConvTranspose2d(4, 4, 2))
    reference = copy.deepcopy(model)
    apply(model, "default", seed=5)
    torch.manual_seed(5)
    for layer in reference:
        layer.reset_parameters()  # type: ignore[operator]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), reference.parameters()))


def test_embeddings_recurrent_and_norm_layers_are_written_only_when_named() -> None:
    model = Net()
    plain = {w.target.layer for w in apply(model, "normal").writes}
    assert plain == {"conv", "up", "attention", "attention.out_proj", "head"}
    named = [w.target.name for w in apply(model, "normal", ["words", "lstm", "norm"]).writes]
    assert named == ["norm.weight", "words.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"]


def test_random_state_and_the_training_flags_are_kept() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    model = Net().eval()
    state = torch.get_rng_state()
    apply(model, "kaiming_uniform")
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(before, state)
    assert not model.training


@pytest.mark.parametrize(
    ("rule", "value"), [("keep", None), ("auto", None), ("zeros", 0.0), ("0.25", 0.25), (-1.5, -1.5)]
)
def test_bias_rules(rule: str | float, value: float | None) -> None:
    layer = nn.Linear(8, 8)
    before = layer.bias.detach().clone()
    apply(layer, "kaiming_uniform", bias=rule)
    wanted = before if value is None else torch.full((8,), value)
    assert torch.equal(layer.bias.detach(), wanted)


def test_a_tied_tensor_is_written_once_and_its_names_are_reported() -> None:
    embedding, head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
    head.weight = embedding.weight
    view = nn.Linear(4, 10, bias=False)
    view.weight = nn.Parameter(embedding.weight.data)  # another Parameter on the same storage
    model = nn.Sequential(nn.Linear(4, 4), head, view, embedding)
    applied = apply(model, "xavier_uniform")
    assert [w.target.name for w in applied.writes] == ["0.weight", "1.weight"]
    tied = next(f for f in applied.findings if f.check == "tied")
    assert tied.evidence == {"1.weight": ["2.weight", "3.weight"]}
    torch.manual_seed(0)
    init.xavier_uniform_(torch.empty(4, 4))
    assert torch.equal(embedding.weight, init.xavier_uniform_(torch.empty(10, 4)))


def test_frozen_parameters_are_initialised_and_named() -> None:
    layer = nn.Linear(4, 4).requires_grad_(False)
    before = layer.weight.clone()
    found = apply(layer, "normal").findings
    assert not torch.equal(before, layer.weight)
    assert [f.subject for f in found if f.check == "frozen"] == ["weight"]


@pytest.mark.parametrize("old", [True, False])
def test_weight_norm_gives_the_product_the_law(old: bool) -> None:
    wrap = torch.nn.utils.weight_norm if old else torch.nn.utils.parametrizations.weight_norm
    layer = wrap(nn.Linear(16, 32))
    apply(layer, "kaiming_uniform", seed=2)
    torch.manual_seed(2)
    wanted = init.kaiming_uniform_(torch.empty(32, 16), a=1)
    torch.testing.assert_close(layer.weight.detach(), wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer(torch.eye(16)) - layer.bias, wanted.T, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("old", [True, False])
def test_spectral_norm_gives_the_law_before_the_division(old: bool) -> None:
    wrap = torch.nn.utils.spectral_norm if old else torch.nn.utils.parametrizations.spectral_norm
    layer = wrap(nn.Linear(16, 32))
    apply(layer, "kaiming_uniform", seed=2)
    torch.manual_seed(2)
    wanted = init.kaiming_uniform_(torch.empty(32, 16), a=1)
    original = layer.weight_orig if old else layer.parametrizations.weight.original
    assert torch.equal(original.detach(), wanted)


def test_a_parametrization_that_overrides_the_scheme_is_found_out() -> None:
    layer = torch.nn.utils.parametrizations.orthogonal(nn.Linear(64, 64))
    applied = apply(layer, "kaiming_uniform")
    assert [f.status for f in expect(applied.targets, applied.choice).findings] == ["fail"]


@pytest.mark.parametrize(
    ("model", "scheme", "says"),
    [
        (nn.LazyLinear(4), "normal", "waits for its first input"),
        (nn.Linear(4, 4, device="meta"), "normal", "on meta"),
        (nn.BatchNorm2d(4), "normal", "no layer with a weight"),
        (nn.Linear(4, 4), "normall", "no scheme is called"),
        (nn.Linear(4, 4), "constant", "needs a value"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_cannot_be_done_is_refused(model: nn.Module, scheme: str, says: str) -> None:
    with pytest.raises(InspectError, match=says):
        apply(model, scheme)


@pytest.mark.parametrize("options", [{"a": 1.0}, {"mode": "fan_in"}, {"gain": 1.0}, {"value": 0.0}])
def test_an_option_that_the_scheme_does_not_use_is_refused(options: dict[str, float | str]) -> None:
    with pytest.raises(InspectError, match="does not use"):
        apply(nn.Linear(4, 4), "normal", **options)


def test_a_gain_is_not_forgotten() -> None:
    layer = nn.Linear(300, 300)
    apply(layer, "xavier_normal", gain=math.sqrt(2))
    # 90,000 draws: the standard error of the std is 0.24%
    assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / 300), rel=0.012)
