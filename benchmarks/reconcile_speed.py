"""What `inspect reconcile` costs beside the slowest of its counters alone.

    python benchmarks/reconcile_speed.py

Each counter alone is the shortest script that a user of that library would write: import it and
torchvision, build vit_b_16, count it. Both run from a cold start, in turn, in wall time: the counters of
reconcile run side by side, so the number of processors decides, and is saved.
"""

from __future__ import annotations

import subprocess
import sys

from common import interleaved, median, save

from inspector.core.processes import cores

REPEATS = 5
MODEL = """
import torch
from torchvision.models import vit_b_16
model, x = vit_b_16(), torch.rand(1, 3, 224, 224)
"""
ALONE = {
    "thop": "from thop import profile; profile(model.eval(), (x,))",
    "fvcore": "from fvcore.nn import FlopCountAnalysis; FlopCountAnalysis(model.eval(), x).total()",
    "torch": (
        "from torch.utils.flop_counter import FlopCounterMode\n"
        "with torch.no_grad(), FlopCounterMode(display=False): model.eval()(x)"
    ),
    "torchinfo": "from torchinfo import summary; summary(model, input_data=x, verbose=0)",
}


def run(words: list[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)


def main() -> None:
    command = [sys.executable, "-m", "inspector", "reconcile", "vit_b_16"]
    counters = [word for name in ALONE for word in ("--counter", name)]
    work = {name: lambda code=code: run([sys.executable, "-c", MODEL + code]) for name, code in ALONE.items()}
    seconds = interleaved({**work, "reconcile": lambda: run([*command, *counters])}, REPEATS)
    medians = {name: round(median(values), 2) for name, values in seconds.items()}
    slowest = max(medians[name] for name in ALONE)
    ratio = round(medians["reconcile"] / slowest, 2)
    print(medians, ratio)
    save("reconcile_speed", {"processors": cores(), "ratio_to_slowest": ratio, "medians": medians})


if __name__ == "__main__":
    main()
