"""Whole models: what is left unexplained. The full list is benchmarks/reconcile.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inspector.counters.report import NEGLIGIBLE, reconcile
from inspector.models import as_recipe
from inspector.reporting.report import Report

COUNTERS = ["thop", "fvcore", "torch"]


def unexplained(report: Report) -> dict[str, float]:
    rows = report.to_frame("counters").set_index("counter")
    assert list(rows.loc[COUNTERS, "status"]) == ["ok"] * 3, dict(rows["message"])
    return dict(rows.loc[COUNTERS, "unexplained_share"])


def live(spec: str) -> nn.Module:
    """Counted in this process: a spec would start one for each counter."""
    return as_recipe(spec).build("cpu")


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("mobilenet_v3_large", "1x3x64x64"),
        ("swin_t", "1x3x64x64"),
        ("vit_b_32", "1x3x224x224"),
        ("densenet121", "1x3x64x64"),
        ("r3d_18", "1x3x4x32x32"),
        ("deeplabv3_mobilenet_v3_large", "1x3x64x64"),
        ("raft_small", "1x3x128x128"),
    ],
)
def test_less_than_a_thousandth_is_unexplained(spec: str, shape: str) -> None:
    shapes = [shape, shape] if spec.startswith("raft") else shape
    found = unexplained(reconcile(live(spec), shapes, counters=COUNTERS))
    assert max(found.values()) < NEGLIGIBLE, found


def test_a_training_step() -> None:
    report = reconcile(live("mobilenet_v3_large"), "2x3x64x64", counters=COUNTERS, phase="train")
    assert max(unexplained(report).values()) < NEGLIGIBLE
    causes = report.to_frame("causes")
    assert set(causes[causes["counter"] == "torch"]["cause"]) == {
        "grouped weight gradient",
        "convention factor 2",
    }
    assert "backward not counted" in set(causes[causes["counter"] == "thop"]["cause"])


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 32)
        self.lstm = nn.LSTM(32, 48, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(x))[0])


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_an_lstm(phase: str) -> None:
    found = reconcile(Tagger(), torch.zeros(3, 7, dtype=torch.int64), counters=COUNTERS, phase=phase)
    assert max(unexplained(found).values()) == 0


def test_a_gpt2_configuration_with_keyword_inputs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    file = tmp_path / "config.json"
    file.write_text('{"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 100}')
    model = live(f"hf:{tmp_path}")
    report = reconcile(model, {"input_ids": torch.zeros(1, 16, dtype=torch.int64)}, counters=COUNTERS)
    assert max(unexplained(report).values()) == 0
    causes = report.to_frame("causes").set_index(["counter", "cause"])["amount"]
    # thop does not know transformers' Conv1D: 12 * 64 * 64 weights a layer, 16 tokens, 2 layers.
    assert causes["thop", "no rule for this class of module"].sum() == -16 * 2 * 12 * 64 * 64
    # Scores and values: 4 heads x 16 x 16 x 16, twice, 2 layers.
    assert causes["thop", "no formula for attention"].sum() == -2 * 2 * 4 * 16**3
