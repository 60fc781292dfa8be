"""Signal propagation: closed forms of He et al., planted collapses, and models that are fine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import init

from inspector.core.errors import InspectError
from inspector.initialization.propagation import Propagation, propagate
from inspector.models.build import build
from inspector.reporting.report import Finding

WIDTH = 256


def mlp(
    depth: int, fill: Callable[[torch.Tensor], object], bias: bool = False, width: int = WIDTH
) -> nn.Module:
    """`depth` times Linear and ReLU, weights filled by `fill`, biases (if any) by torch."""

    def construct() -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(width, width, bias=bias), nn.ReLU()]
            fill(layers[-2].weight)  # type: ignore[arg-type]
        return nn.Sequential(*layers)

    return build(construct, "cpu", 0)


def run(model: nn.Module, *shape: int, **options: Any) -> Propagation:
    torch.manual_seed(1)
    return propagate(model, (torch.randn(*shape),), {}, **options)


def of(findings: list[Finding], status: str) -> list[Finding]:
    assert {finding.check for finding in findings} == {"propagation"}
    return [finding for finding in findings if finding.status == status]


def flags(result: Propagation) -> set[str]:
    return {flag for row in result.rows for flag in row["flag"].split(", ") if flag}


# --- theory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_std_of_each_layer_follows_the_closed_form(factor: float) -> None:
    # W ~ N(0, s^2), x = relu(y): Var[y'] = n s^2 E[x^2] = n s^2 Var[y] / 2, a gain of s sqrt(n / 2) a
    # layer. The input is N(0, 1) and not rectified, so the first layer has Var[y] = n s^2.
    sigma = factor * math.sqrt(2 / WIDTH)
    rows = run(mlp(12, lambda w: init.normal_(w, std=sigma)), 256, WIDTH).rows
    stds = [row["forward_std"] for row in rows]
    assert stds[0] == pytest.approx(sigma * math.sqrt(WIDTH), rel=0.02)
    # Relative fluctuation of a layer's second moment: about sqrt(5 / n) = 0.14, a random walk in depth.
    gain = (stds[-1] / stds[0]) ** (1 / 11)
    assert gain == pytest.approx(sigma * math.sqrt(WIDTH / 2), rel=0.05)


def test_he_initialisation_keeps_signal_and_gradient_over_fifty_layers() -> None:
    result = run(mlp(50, lambda w: init.kaiming_normal_(w, nonlinearity="relu")), 64, WIDTH)
    assert [finding.status for finding in result.findings] == ["pass"]
    stds = [row["forward_std"] for row in result.rows]
    assert 0.1 < stds[-1] / stds[0] < 10
    assert flags(result) == set()


def test_the_gradient_of_the_last_layer_is_that_of_the_projection() -> None:
    # Norm 1 a sample over 256 outputs, mean of 64 samples: std 1 / (16 * 64).
    row = run(nn.Linear(WIDTH, WIDTH), 64, WIDTH).rows[0]
    assert row["backward_std"] == pytest.approx(1 / (16 * 64), rel=0.02)


def test_forward_std_and_maximum_are_those_of_the_output() -> None:
    model = nn.Linear(8, 8)
    x = torch.randn(4, 8)
    row = propagate(model, (x,), {}).rows[0]
    y = model(x).detach().double().numpy()
    assert row["forward_std"] == pytest.approx(y.std(), rel=1e-12)
    assert row["forward_max"] == pytest.approx(abs(y).max(), rel=1e-12)


# --- planted faults -----------------------------------------------------------------------------


def test_too_small_weights_kill_the_signal() -> None:
    # Gain 0.01 * sqrt(128) = 0.11: 0.11^50 = 1e-47 is zero in float32.
    result = run(mlp(50, lambda w: init.normal_(w, std=0.01)), 4, WIDTH)
    assert of(result.findings, "fail")
    (vanished,) = [f for f in of(result.findings, "warn") if f.evidence.get("flag") == "vanishes"]
    assert vanished.subject == "12"  # 0.16 * 0.113^k < 1e-6 from k = 6, the seventh layer, on
    assert result.rows[-1]["forward_std"] == 0.0


def test_biases_do_not_hide_a_dead_signal() -> None:
    result = run(mlp(50, lambda w: init.normal_(w, std=0.01), bias=True), 4, WIDTH)
    assert [f.evidence["flag"] for f in of(result.findings, "fail")].count("dead") == 1
    assert result.rows[-1]["forward_std"] > 0


def test_too_large_weights_explode() -> None:
    # Gain sqrt(128) = 11.3: 16 * 11.3^k passes 1e4 at k = 3, 65504 in size near there, inf at k = 36.
    result = run(mlp(50, lambda w: init.normal_(w, std=1.0)), 4, WIDTH)
    assert {"explodes", "saturates fp16", "not finite"} <= flags(result)
    assert [f for f in of(result.findings, "fail") if f.evidence["flag"] == "not finite"]
    (exploded,) = [f for f in of(result.findings, "warn") if f.evidence["flag"] == "explodes"]
    assert exploded.subject == "6"
    assert exploded.evidence["forward_std"] == pytest.approx(16 * math.sqrt(128) ** 3, rel=0.2)


def test_moderate_depth_warns_and_does_not_fail() -> None:
    small = run(mlp(12, lambda w: init.normal_(w, std=0.01)), 4, WIDTH)
    assert flags(small) >= {"vanishes", "gradient vanishes", "underflows fp16"}
    assert not of(small.findings, "fail")
    large = run(mlp(6, lambda w: init.normal_(w, std=1.0)), 4, WIDTH)
    assert flags(large) >= {"explodes", "gradient explodes", "saturates fp16"}
    assert not of(large.findings, "fail")


def test_a_tiny_gradient_everywhere_underflows_even_a_scaled_loss() -> None:
    class Faint(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.square() * 1e-15).sum()

    result = run(nn.Sequential(nn.Linear(8, 8), Faint()), 4, 8)
    assert flags(result) == {"underflows fp16", "underflows scaled fp16"}
    assert len(of(result.findings, "warn")) == 1


def test_nan_weights_fail_and_name_the_first_layer() -> None:
    model = mlp(3, init.kaiming_normal_)
    model[2].weight.data[0, 0] = float("nan")  # type: ignore[index,union-attr]
    failed = of(run(model, 4, WIDTH).findings, "fail")
    assert failed[0].subject == "2"


def test_a_layer_in_the_middle_that_starts_at_zero_is_dead() -> None:
    model = mlp(4, init.kaiming_normal_, bias=True)
    init.zeros_(model[2].weight)  # type: ignore[index,arg-type,union-attr]
    failed = of(run(model, 4, WIDTH).findings, "fail")
    assert [f.subject for f in failed] == ["2"]


def test_a_detached_start_has_no_gradient_and_is_not_called_vanished() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x).detach())

    rows = run(Cut(), 4, 8).rows
    assert [row["backward_std"] is None for row in rows] == [True, False]


# --- what is no fault ---------------------------------------------------------------------------


def test_a_head_that_starts_at_zero_is_named_and_not_a_fault() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    init.zeros_(model[2].weight)
    init.zeros_(model[2].bias)
    result = run(model, 4, 8)
    assert [f.status for f in result.findings] == ["pass", "skip"]
    assert result.findings[1].subject == "2.weight"
    assert result.rows[1]["flag"] == "starts at zero"


def test_a_branch_with_a_small_layer_scale_is_no_vanishing_gradient() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
            self.scale = nn.Parameter(torch.full((64,), 1e-7))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.scale * self.b(self.a(x))

    result = run(nn.Sequential(nn.Linear(64, 64), Block(), Block()), 4, 64)
    assert [f.status for f in result.findings] == ["pass"], result.findings


def test_batch_norm_of_two_values_is_not_judged() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
    assert [f.status for f in run(model, 2, 8).findings] == ["pass", "skip"]
    assert [f.status for f in run(model, 8, 8).findings] == ["pass"]


@pytest.mark.parametrize(
    ("name", "batch", "size"),
    [
        ("resnet50", 2, 64),
        ("resnet50", 2, 32),
        ("mobilenet_v3_small", 2, 64),
        ("densenet121", 2, 64),
        ("convnext_tiny", 2, 64),
    ],
)
def test_models_of_torchvision_are_silent(name: str, batch: int, size: int) -> None:
    import torchvision.models

    result = run(build(getattr(torchvision.models, name), "cpu"), batch, 3, size, size)
    assert {finding.status for finding in result.findings} <= {"pass", "skip"}
    assert result.findings[0].status == "pass"


def test_a_vision_transformer_with_a_zero_head_is_silent() -> None:
    import torchvision.models

    def construct() -> nn.Module:
        return torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128)

    result = run(build(construct, "cpu"), 2, 3, 32, 32)
    assert [finding.status for finding in result.findings] == ["pass", "skip"]
    assert result.findings[1].subject == "heads.head.weight"


# --- rows ---------------------------------------------------------------------------------------


def test_rows_stand_in_the_order_of_execution_with_calls_and_bars() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
            self.early, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.late(self.norm(self.early(self.early(x))))

    rows = run(Turned(), 8, 4).rows
    assert [(row["module"], row["type"], row["calls"]) for row in rows] == [
        ("early", "Linear", 2),
        ("late", "Linear", 1),
    ]
    assert all(set(row["plot"]) <= set("█▏▎▍▌▋▊▉") for row in rows)


def test_bars_share_one_scale() -> None:
    # A diagonal network: stds 1, 0.1, 0.01 on decades -2 to 0 or one more: steps of equal length.
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3)))
    for layer, gain in zip(model, (1.0, 0.1, 0.1)):
        layer.weight.data = torch.eye(64) * gain  # type: ignore[union-attr]
    bars = [len(row["plot"]) for row in run(model, 64, 64).rows]
    assert bars[0] <= 24
    assert abs((bars[0] - bars[1]) - (bars[1] - bars[2])) <= 1
    assert bars[0] > bars[1] > bars[2] > 0


def test_attention_recurrent_and_embedding_layers_have_rows() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 16)
            self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
            self.lstm = nn.LSTM(16, 16, batch_first=True)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed(ids)
            return self.lstm(self.attend(x, x, x)[0])[0]

    result = propagate(Mixed(), (torch.randint(11, (4, 6)),), {})
    assert [row["type"] for row in result.rows] == ["Embedding", "MultiheadAttention", "LSTM"]
    assert all(row["backward_std"] > 0 for row in result.rows)
    assert result.rows[0]["forward_std"] == pytest.approx(1.0, abs=0.15)  # N(0, 1)


def test_a_module_that_uses_layers_without_calling_them_stands_for_them() -> None:
    import torchvision.models

    def construct() -> nn.Module:
        return torchvision.models.SwinTransformer([4, 4], 24, [1, 2], [2, 2], [4, 4])

    result = run(build(construct, "cpu"), 2, 3, 32, 32)
    assert sum(row["type"] == "ShiftedWindowAttention" for row in result.rows) == 3
    assert [finding.status for finding in result.findings] == ["pass"]


def test_in_place_activations_do_not_change_what_is_measured() -> None:
    def rows(inplace: bool) -> list[dict[str, Any]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(inplace=inplace), nn.Linear(8, 8))
        return run(model, 4, 8).rows

    assert rows(True) == rows(False)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_count_once_and_have_gradients(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Saved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return checkpoint(self.body, self.stem(x), use_reentrant=reentrant)

    rows = run(Saved(), 4, 8).rows
    assert [row["calls"] for row in rows] == [1, 1]
    assert all(row["backward_std"] > 0 for row in rows)


def test_a_loss_of_its_own_is_used() -> None:
    class Trained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.layer(x)
            weights = torch.tensor([1.0, -1.0]).repeat(4, 4)
            return {"loss": (3 * weights * y).mean(), "logits": y}

    # d loss / dy = +-3 / 32.
    assert run(Trained(), 4, 8).rows[0]["backward_std"] == pytest.approx(3 / 32, rel=1e-6)


# --- no trace on the model ----------------------------------------------------------------------


class Noisy(nn.Module):
    """Batch statistics, dropout, a frozen layer, and an input that is changed in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)
        self.b, self.drop = nn.Linear(8, 8), nn.Dropout(0.5)
        self.a.requires_grad_(False)
        self.count = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        random.random(), np.random.rand()
        return self.drop(self.b(self.norm(self.a(x.mul_(2)))))


@pytest.mark.parametrize("fails", [False, True])
def test_model_inputs_and_random_state_are_the_same_afterwards(fails: bool) -> None:
    model = Noisy().eval()
    model.norm.train()
    model.b.weight.grad = torch.ones(8, 8)
    x = torch.randn(8, 8 if not fails else 7)
    before = {name: tensor.clone() for name, tensor in (*model.state_dict().items(), ("x", x))}
    tensors = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()  # type: ignore
    with torch.no_grad():
        if fails:
            with pytest.raises(InspectError, match="forward raised"):
                propagate(model, (x,), {})
        else:
            assert propagate(model, (x,), {}).rows[0]["backward_std"] > 0  # frozen, and measured
        assert not torch.is_grad_enabled()
    after = {**model.state_dict(), "x": x}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == tensors
    assert [module.training for module in model.modules()] == [False, False, True, False, False]
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert torch.equal(model.b.weight.grad, torch.ones(8, 8))
    assert sum(p.grad is not None for p in model.parameters()) == 1
    assert model.count == 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tobytes())  # type: ignore


def test_the_same_seed_gives_the_same_rows() -> None:
    model = Noisy()
    assert run(model, 8, 8, seed=3) == run(model, 8, 8, seed=3)
    assert run(model, 8, 8, seed=3).rows != run(model, 8, 8, seed=4).rows


def test_it_works_inside_inference_mode_and_without_outputs_to_train() -> None:
    with torch.inference_mode():
        assert run(nn.Linear(8, 8), 4, 8).rows[0]["backward_std"] > 0

    class Index(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.argmax(1)

    index = nn.Sequential(nn.Linear(8, 8), Index())
    assert "not measured" in of(run(index, 4, 8).findings, "skip")[0].message
    assert [f.status for f in run(nn.ReLU(), 4, 8).findings] == ["skip"]
