"""Seconds and peak memory of each counter's sweep over torchvision, as multiples of ours.

    python benchmarks/sweep.py && python benchmarks/speed.py

All counters of one run of sweep.py, each in a process of its own, building the models included. A ratio
belongs to that run, and to a machine with nothing else to do: `load_average` and `cpu_seconds` tell.
"""

from __future__ import annotations

import json

from common import RESULTS, save


def main() -> None:
    content = json.loads((RESULTS / "sweep.json").read_text())
    ours = content["counters"]["ours"]
    counters = {}
    for name, result in content["counters"].items():
        counters[name] = {
            **{
                key: result[key]
                for key in ("models", "failed", "total_seconds", "cpu_seconds", "load_average", "peak_gib")
            },
            "times_ours": round(result["total_seconds"] / ours["total_seconds"], 1),
            "peak_times_ours": round(result["peak_gib"] / ours["peak_gib"], 1),
        }
        print(name, counters[name])
    save("speed", {"swept": content["environment"], "counters": counters})


if __name__ == "__main__":
    main()
