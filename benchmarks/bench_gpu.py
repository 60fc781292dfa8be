"""The figures of `inspect bench` on a GPU, and our harness against a hand-written loop of CUDA events.

    python benchmarks/bench_gpu.py [OUT]

Writes one report for each model under benchmarks/results/bench_gpu/ (or OUT), and bench_gpu.json with
what must hold: FP16 autocast training of resnet50 at batch 256 at 2 times FP32 IEEE or more, and our
median within 2% of the hand-written loop.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from common import RESULTS, median, save

import inspector
from inspector.benchmarking import flags
from inspector.benchmarking.precisions import PRECISIONS
from inspector.benchmarking.report import Session
from inspector.benchmarking.run import Options
from inspector.benchmarking.timing import EventClock, warm_up
from inspector.models import as_recipe

MODELS = ("resnet50", "vit_b_16", "convnext_tiny", "mobilenet_v3_large")
BATCHES = (1, 64, 256)


def by_hand(step, calls: int) -> float:
    """Median seconds of a step between two CUDA events, nothing else around it."""
    for _ in range(10):
        step()
    pairs = []
    for _ in range(calls):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return median([start.elapsed_time(end) / 1e3 for start, end in pairs])


def harness(name: str, mode: str, batch: int) -> dict:
    session = Session(as_recipe(name), None, Options("cuda", seconds=5.0), [batch])
    with flags.precision("ieee"):
        step, clock = session.bench.step(PRECISIONS["fp32"], mode, batch), EventClock("cuda")
        warm_up(step, clock, limit_s=10.0)
        ours, theirs = [], []
        for _ in range(5):
            ours += clock.visit(step, 10).samples
            theirs.append(by_hand(step, 10))
    return {"ours": median(ours), "by hand": median(theirs), "ratio": round(median(ours) / median(theirs), 4)}


def main(words: list[str]) -> None:
    folder = Path(words[0]) if words else RESULTS / "bench_gpu"
    folder.mkdir(parents=True, exist_ok=True)
    claims: dict = {"device": torch.cuda.get_device_name()}
    for name in MODELS:
        report = inspector.bench(name, batches=BATCHES, device="cuda", seconds=6.0)
        (folder / f"{name}.json").write_text(report.to_json() + "\n")
        print(report, flush=True)
        if name == "resnet50":
            rows = report.to_frame("rows")
            chosen = rows[(rows["mode"] == "train") & (rows["batch"] == 256)].set_index("precision")
            speedups = chosen["speedup"].dropna().to_dict()
            claims["resnet50_train_256_speedup"] = {key: round(value, 3) for key, value in speedups.items()}
    claims["harness"] = {
        f"{name}/{mode}/64": harness(name, mode, 64)
        for name in ("resnet50", "vit_b_16")
        for mode in ("infer", "train")
    }
    if words:
        (folder / "bench_gpu.json").write_text(json.dumps(claims, indent=1) + "\n")
    else:
        save("bench_gpu", claims)
    print(json.dumps(claims, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
