"""Our medians against `torch.utils.benchmark` on the same step of the same model, in one run.

    python benchmarks/bench_cpu.py

Both time the very same callable, in turn, so that a slow phase of the machine meets both.
"""

from __future__ import annotations

import torch
from common import median, save
from torch.utils.benchmark import Timer

from inspector.benchmarking.precisions import PRECISIONS
from inspector.benchmarking.report import Session
from inspector.benchmarking.run import Options
from inspector.benchmarking.timing import HostClock, warm_up
from inspector.models import as_recipe

CASES = (
    ("resnet18", "infer"), ("resnet18", "train"), ("mobilenet_v3_small", "infer"),
    ("mobilenet_v3_small", "train"), ("vit_b_16", "infer"),
)  # fmt: skip
ROUNDS = 24
CALLS = 3


def compare(name: str, mode: str) -> dict:
    session = Session(as_recipe(name), None, Options("cpu", seconds=1.0), [2])
    step, clock = session.bench.step(PRECISIONS["fp32"], mode, 2), HostClock()
    timer = Timer("step()", globals={"step": step}, num_threads=torch.get_num_threads())
    warm_up(step, clock, limit_s=10.0)
    ours, theirs = [], []
    for number in range(ROUNDS):
        for mine in (True, False) if number % 2 else (False, True):
            if mine:
                ours += clock.visit(step, CALLS).samples
            else:
                theirs += [timer.timeit(1).median for _ in range(CALLS)]
    return {
        "ours": median(ours),
        "torch.utils.benchmark": median(theirs),
        "ratio": round(median(ours) / median(theirs), 4),
    }


def main() -> None:
    rows = {}
    for name, mode in CASES:
        rows[f"{name}/{mode}"] = compare(name, mode)
        print(name, mode, rows[f"{name}/{mode}"], flush=True)
    save("bench_cpu", {"calls": ROUNDS * CALLS, "medians": rows})


if __name__ == "__main__":
    main()
