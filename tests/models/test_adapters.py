"""LoRA adapters through peft: parameters, MACs and the memory of training by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import inspector
from inspector.freezing.handle import freeze_and_verify
from inspector.models.adapters import adapted
from inspector.models.specs import resolve

pytestmark = pytest.mark.once

NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(32, 64)
        self.second = nn.Linear(64, 8)

    def forward(self, x):
        return self.second(self.first(x).relu())

LIVE = Net()

def example_inputs():
    return torch.arange(96.0).reshape(3, 32) / 96
"""


@pytest.fixture(autouse=True)
def peft() -> Any:
    """Not imported above: that takes seconds of every process that collects tests."""
    return pytest.importorskip("peft")


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path}/net.py"


def values(report: inspector.Report) -> dict[str, Any]:
    return {name: metric.value for name, metric in report.metrics.items()}


def test_an_adapter_is_two_matrices_beside_a_layer(net: str) -> None:
    numbers = values(inspector.profile(f"{net}:Net", model_args={"peft": "r=4,targets=first"}))
    base = 32 * 64 + 64 + 64 * 8 + 8
    assert numbers["params"] == base + 4 * (32 + 64)
    assert numbers["trainable_params"] == 4 * (32 + 64)
    assert numbers["macs"] == 3 * (32 * 64 + 64 * 8 + 4 * (32 + 64))


def test_only_adapters_have_gradients_and_optimizer_state(net: str) -> None:
    report = inspector.memory(
        f"{net}:Net", phase="train", optimizer="adamw", model_args={"peft": "r=4,targets=first"}
    )
    rows = report.to_frame("composition").set_index("category") if "composition" in report.tables else None
    assert rows is not None
    # exp_avg and exp_avg_sq of two matrices, of 4 x 32 and of 64 x 4; their step counts stay on the CPU.
    assert rows.loc["optimizer state", "blocks"] == 4


def test_ia3_scales_what_comes_out_of_a_layer_and_what_goes_into_a_feedforward(net: str) -> None:
    text = "ia3=true,targets=first+second,feedforward=second"
    numbers = values(inspector.profile(f"{net}:Net", model_args={"peft": text}))
    assert numbers["trainable_params"] == 64 + 64  # the 64 outputs of the first, the 64 inputs of the second
    assert numbers["macs"] == 3 * (32 * 64 + 64 * 8)  # a scale is no product of matrices
    plain = values(inspector.profile(f"{net}:Net"))
    # Each of three rows is scaled, and peft first joins the scales of its adapters, here of one.
    assert numbers["pointwise_flops"] - plain["pointwise_flops"] == (3 + 1) * (64 + 64)


@pytest.mark.parametrize("text", ["r=4,targets=first", "ia3=true,targets=first+second,feedforward=second"])
def test_merged_adapters_cost_nothing(net: str, text: str) -> None:
    numbers = values(inspector.profile(f"{net}:Net", model_args={"peft": f"{text},merged=true"}))
    plain = values(inspector.profile(f"{net}:Net"))
    assert {**numbers, "trainable_params": 0} == {**plain, "trainable_params": 0}
    assert numbers["trainable_params"] == 0


def test_the_frozen_base_is_verified(net: str) -> None:
    report = freeze_and_verify(f"{net}:Net", model_args={"peft": "r=4,targets=first"}, steps=2, ddp=False)
    assert report.verdict == "pass"
    messages = " ".join(finding.message for finding in report.findings)
    assert "4 frozen parameters (2,632 elements) are byte-identical" in messages  # 32 x 64 + 64 + 64 x 8 + 8
    assert "all 2 trainable parameters with a gradient moved" in messages


def test_what_was_frozen_before_is_said_beside_what_is_asked_for(net: str) -> None:
    arguments: Any = {"model_args": {"peft": "r=4,targets=first"}, "steps": 2, "ddp": False}
    report = freeze_and_verify(f"{net}:Net", patterns=["second.*"], **arguments)
    assert any(
        "2 parameters are frozen, 2 train, as planned; 2 more were frozen before" in finding.message
        for finding in report.findings
    )


def test_a_live_model_is_not_changed(net: str) -> None:
    recipe = resolve(f"{net}:LIVE")
    live = recipe.construct()
    adapted(recipe, "r=2,targets=second").build("meta")
    assert [name for name, _ in live.named_parameters()] == [
        "first.weight", "first.bias", "second.weight", "second.bias"
    ]  # fmt: skip
    assert all(parameter.requires_grad for parameter in live.parameters())


def test_a_row_of_a_table_may_have_adapters(net: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.yaml"
    file.write_text(f"- model: {net}:Net\n  model_args: {{peft: 'r=2,targets=first+second'}}\n")
    row = inspector.table([str(file)]).tables["models"].records()[0]
    assert row["trainable_params"] == 2 * (32 + 64) + 2 * (64 + 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("16", "cannot read '16'"),
        ("r=0,targets=first", "rank 0"),
        ("r=x,targets=first", "cannot be 'x'"),
        ("r=4,dora=3", "cannot be '3'"),
        ("r=4,target=first", "cannot read 'target=first'"),
        ("r=4,targets=third", "do not fit"),
        ("r=-1,targets=first", "cannot be '-1'"),
        ("", "cannot read ''"),
        ("ia3=true,r=4,targets=first", "adapters of IA3 have no 'r'"),
        ("r=4,targets=first,feedforward=first", "adapters of LoRA have no 'feedforward'"),
        ("merged=3,targets=first", "cannot be '3'"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, words: str, net: str) -> None:
    with pytest.raises(inspector.InspectError, match=words):
        inspector.profile(f"{net}:Net", model_args={"peft": text})
