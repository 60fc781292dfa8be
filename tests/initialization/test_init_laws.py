"""Laws against closed forms of the papers, scipy, and what torch.nn.init draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from torch import nn

from inspector.initialization import laws
from inspector.initialization.laws import NEVER, Law
from inspector.initialization.schemes import choose, default_law
from inspector.initialization.targets import fans_of, of_model


def law_of(layer: nn.Module, scheme: str, **options: float | str) -> Law:
    weight = next(t for t in of_model(layer) if t.role == "weight")
    law = choose(scheme, **options).law(weight)
    assert law is not None
    return law


# Linear(50, 200): fan_in 50, fan_out 200.
@pytest.mark.parametrize(
    ("scheme", "options", "std", "bound"),
    [
        ("kaiming_uniform", {"a": 0.0}, math.sqrt(2 / 50), math.sqrt(6 / 50)),  # He et al. 2015
        ("kaiming_uniform", {}, math.sqrt(1 / 50), math.sqrt(3 / 50)),  # a = 1
        ("kaiming_uniform", {"a": math.sqrt(5)}, math.sqrt(1 / 150), 1 / math.sqrt(50)),  # torch's default
        ("kaiming_normal", {}, math.sqrt(2 / 50), math.inf),
        ("kaiming_normal", {"mode": "fan_out"}, math.sqrt(2 / 200), math.inf),
        ("xavier_uniform", {}, math.sqrt(2 / 250), math.sqrt(6 / 250)),  # Glorot & Bengio 2010
        ("xavier_normal", {"gain": 5 / 3}, 5 / 3 * math.sqrt(2 / 250), math.inf),
        ("c2_xavier_fill", {}, math.sqrt(1 / 50), math.sqrt(3 / 50)),  # Caffe2's XavierFill
        ("c2_msra_fill", {}, math.sqrt(2 / 200), math.inf),  # Caffe2's MSRAFill
        ("normal", {"std": 0.01}, 0.01, math.inf),
        ("trunc_normal", {}, 0.02, 2.0),
        ("default", {}, math.sqrt(1 / 150), 1 / math.sqrt(50)),
        ("orthogonal", {}, 1 / math.sqrt(200), 1.0),
    ],
)
def test_a_law_has_the_std_and_bound_of_the_papers(
    scheme: str, options: dict[str, float | str], std: float, bound: float
) -> None:
    law = law_of(nn.Linear(50, 200), scheme, **options)
    assert law.std == pytest.approx(std, rel=1e-12)
    if scheme != "trunc_normal":
        assert law.bound == pytest.approx(bound, rel=1e-12)


@pytest.mark.parametrize("cut", [0.5, 1.0, 2.0, 3.5])
def test_a_truncated_normal_agrees_with_scipy(cut: float) -> None:
    law, oracle = laws.normal(0.3, cut=0.3 * cut), stats.truncnorm(-cut, cut, scale=0.3)
    second, fourth = oracle.moment(2), oracle.moment(4)
    assert law.std == pytest.approx(math.sqrt(second), rel=1e-9)
    assert law.kurtosis == pytest.approx(fourth / second**2, rel=1e-8)
    points = np.linspace(-0.3 * cut, 0.3 * cut, 31)
    np.testing.assert_allclose(law.cdf(points), oracle.cdf(points), atol=1e-12)
    assert law.outside(0.1) == pytest.approx(2 * oracle.sf(0.1), rel=1e-9)


def test_normal_and_uniform_agree_with_scipy() -> None:
    points = np.linspace(-0.2, 0.2, 41)
    np.testing.assert_allclose(laws.normal(0.05).cdf(points), stats.norm(scale=0.05).cdf(points), atol=1e-14)
    np.testing.assert_allclose(
        laws.uniform(0.1).cdf(points), stats.uniform(-0.1, 0.2).cdf(points), atol=1e-14
    )
    assert (laws.uniform(1.0).kurtosis, laws.normal(1.0).kurtosis) == (1.8, 3.0)


def test_a_cut_that_never_bites_is_the_normal_law_itself() -> None:
    assert laws.normal(0.02, cut=2.0).same(laws.normal(0.02))
    assert not laws.normal(1.0, cut=2.0).same(laws.normal(1.0))
    assert laws.normal(0.25, cut=2.0).cut / 0.25 == NEVER


def test_xavier_is_kaiming_with_a_1_exactly_when_the_fans_are_equal() -> None:
    def same(layer: nn.Module) -> bool:
        return law_of(layer, "xavier_uniform").same(law_of(layer, "kaiming_uniform"))

    assert same(nn.Linear(64, 64))
    assert not same(nn.Linear(64, 65))


def test_fans_of_a_transposed_convolution() -> None:
    # weight [16, 64, 4, 4]: torch says fan_in 64*16, fan_out 16*16; 16*16/4 inputs reach an output.
    layer = nn.ConvTranspose2d(16, 64, 4, stride=2)
    fans = fans_of(tuple(layer.weight.shape), layer)
    assert fans is not None
    assert (fans.fan_in, fans.fan_out) == (1024, 256)
    assert (fans.effective_in, fans.effective_out) == (64, 1024)


def test_fans_of_a_depthwise_convolution() -> None:
    layer = nn.Conv2d(64, 64, 3, groups=64)
    fans = fans_of(tuple(layer.weight.shape), layer)
    assert fans is not None
    assert (fans.fan_in, fans.fan_out) == (9, 576)
    assert (fans.effective_in, fans.effective_out) == (9, 9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(8, 24, 5), nn.Conv2d(8, 24, 3, groups=2), nn.Conv3d(4, 8, 3), nn.Linear(30, 70),
        nn.ConvTranspose1d(8, 24, 5), nn.ConvTranspose2d(8, 24, 3), nn.ConvTranspose3d(4, 8, 3),
        nn.Bilinear(10, 20, 30), nn.LSTM(16, 32, proj_size=8), nn.GRU(16, 32), nn.RNN(16, 32),
        nn.LSTMCell(16, 32), nn.MultiheadAttention(32, 4, add_bias_kv=True), nn.Embedding(40, 16),
        nn.BatchNorm2d(8), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.RMSNorm(8),
        nn.InstanceNorm2d(8, affine=True),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_the_default_law_is_what_reset_parameters_calls(
    layer: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own reset_parameters with its random calls recorded, not drawn."""
    seen: dict[int, tuple[str, float]] = {}

    def uniform(tensor, a=0.0, b=1.0, generator=None):  # type: ignore[no-untyped-def]
        assert a == -b
        seen[id(tensor)] = ("uniform", b)
        return tensor

    def normal(tensor, mean=0.0, std=1.0, generator=None):  # type: ignore[no-untyped-def]
        seen[id(tensor)] = ("normal", std)
        return tensor

    def constant(tensor, val):  # type: ignore[no-untyped-def]
        seen[id(tensor)] = ("constant", val)
        return tensor

    for name, record in (("uniform_", uniform), ("normal_", normal), ("constant_", constant)):
        monkeypatch.setattr(f"torch.nn.init.{name}", record)
        monkeypatch.setattr(f"torch.nn.init._no_grad_{name}", record, raising=False)
    monkeypatch.setattr("torch.Tensor.uniform_", uniform)
    monkeypatch.setattr("torch.Tensor.normal_", normal)
    monkeypatch.setattr("torch.nn.init.ones_", lambda t: constant(t, 1.0))
    monkeypatch.setattr("torch.nn.init.zeros_", lambda t: constant(t, 0.0))
    for module in layer.modules():
        reset = getattr(module, "_reset_parameters", None) or getattr(module, "reset_parameters", None)
        if reset is not None and not isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
            reset()
    for target in of_model(layer):
        tensor = dict(layer.named_parameters())[target.name]
        law = default_law(target)
        assert law is not None, target.name
        if id(tensor) in seen:
            family, scale = seen[id(tensor)]
            assert (law.family, law.scale) == (family, pytest.approx(scale, rel=1e-9)), target.name
        else:
            assert isinstance(layer, nn.MultiheadAttention)
