"""What `inspect reconcile` leaves unexplained on models of every kind, and the causes that it names.

    python benchmarks/reconcile.py

thop, fvcore and torch's FlopCounterMode on each model (random weights, its default input); the share is
that of the larger total, with modules that have too much and too little not cancelling.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from common import save
from torch import nn

from inspector.counters.report import NEGLIGIBLE, reconcile
from inspector.models import as_recipe

COUNTERS = ("thop", "fvcore", "torch")
MODELS = (
    "resnet50", "vit_b_16", "swin_t", "convnext_tiny", "mobilenet_v3_large", "efficientnet_b0", "maxvit_t",
    "densenet121", "inception_v3", "raft_small", "r3d_18", "deeplabv3_resnet50",
)  # fmt: skip
GPT2 = {"model_type": "gpt2"}  # 12 layers of 768: the configuration's defaults


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 64)
        self.lstm = nn.LSTM(64, 128, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(256, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embed(x))[0])


def row(model: Any, inputs: Any = None, phase: str = "forward") -> dict[str, Any]:
    report = reconcile(model, inputs, counters=COUNTERS, phase=phase)
    counters = report.to_frame("counters").set_index("counter")
    causes = report.to_frame("causes")
    found = {}
    for name in COUNTERS:
        mine = causes[causes["counter"] == name].groupby("cause")["amount"].sum()
        found[name] = {
            "status": counters.loc[name, "status"],
            "message": counters.loc[name, "message"],
            "macs": counters.loc[name, "macs"],
            "difference": counters.loc[name, "difference"],
            "unexplained": counters.loc[name, "unexplained"],
            "unexplained_share": counters.loc[name, "unexplained_share"],
            "causes": {cause: int(amount) for cause, amount in mine.items()},
        }
    return {"ours": counters.loc["ours", "macs"], **found}


def main() -> None:
    rows = {name: row(as_recipe(name)) for name in MODELS}
    rows["an LSTM"] = row(Tagger(), torch.zeros(4, 50, dtype=torch.int64))
    rows["an LSTM, training"] = row(Tagger(), torch.zeros(4, 50, dtype=torch.int64), "train")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(GPT2))
        rows["GPT-2"] = row(as_recipe(f"hf:{folder}"))
    for name in ("mobilenet_v3_large", "vit_b_16"):
        rows[f"{name}, training"] = row(as_recipe(name), phase="train")
    for name, found in rows.items():
        shares = {counter: float(found[counter]["unexplained_share"]) for counter in COUNTERS}
        print(f"{name:30} {shares}")
    worst = max(found[counter]["unexplained_share"] for found in rows.values() for counter in COUNTERS)
    plain = json.loads(json.dumps(rows, default=lambda value: value.item()))
    save("reconcile", {"worst_share": worst, "allowed": NEGLIGIBLE, "models": plain})


if __name__ == "__main__":
    main()
