"""A/A: how often a difference is claimed between two rows that are the same.

    python benchmarks/bench_aa.py [RUNS]

Each run times the same precision twice, by the code that `inspect bench` runs, and asks whether it
would claim a difference; at an interval of 95% it may in 5% of the runs.
"""

from __future__ import annotations

import sys

from common import median, save

from inspector.benchmarking.precisions import PRECISIONS
from inspector.benchmarking.report import Session
from inspector.benchmarking.run import Options
from inspector.benchmarking.stats import claimed, ratio_interval
from inspector.benchmarking.timing import HostClock, interleave, warm_up
from inspector.models import as_recipe

MODEL = "mobilenet_v3_small"
SECONDS = 2.0


def main(words: list[str]) -> None:
    runs = int(words[0]) if words else 100
    session = Session(as_recipe(MODEL), ["1x3x64x64"], Options("cpu", seconds=SECONDS), [1])
    clock = HostClock()
    work = {name: session.bench.step(PRECISIONS["fp32"], "infer", 1) for name in ("a", "b")}
    for step in work.values():
        warm_up(step, clock, limit_s=5.0)
    ratios, claims = [], 0
    for run in range(runs):
        visits: dict = {}
        interleave(work, clock, seconds=SECONDS, into=visits)
        times = {name: [median(visit.samples) for visit in found] for name, found in visits.items()}
        ratio, interval = ratio_interval(times["a"], times["b"], seed=run)
        claims += claimed(interval)
        ratios.append(
            {
                "ratio": ratio,
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
                "rounds": len(times["a"]),
            }
        )
    print(f"{claims} of {runs} runs claim a difference")
    save("bench_aa", {"model": MODEL, "runs": runs, "claimed": claims, "ratios": ratios})


if __name__ == "__main__":
    main(sys.argv[1:])
