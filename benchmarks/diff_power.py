"""How often `inspect diff` fails an unchanged model, and how often it catches one that is 10% slower.

    python benchmarks/diff_power.py           measure rounds, then resample them
    python benchmarks/diff_power.py again     resample the rounds of the committed result

Rounds of one model are measured as `inspect table --measure latency` does. A run takes consecutive pairs
of them from a random place and calls one of each pair BASE and the other HEAD, by a coin (A/A); for power,
HEAD's seconds are multiplied. What is counted is the comparison's own verdict, noise.decide.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import pairwise
from typing import Any

from common import RESULTS, median, save

MODELS = ("mobilenet_v3_small", "squeezenet1_1")
ROUNDS = 200
RUNS = 1000
PAIRS = 30
"""As `inspect table --measure latency` takes by default."""
SLOWER = (1.0, 1.02, 1.05, 1.10, 1.20)


def measured(name: str) -> dict[str, list[float]]:
    """The latency and the CPU time of each round."""
    from inspector.regress.sweep.measure import live, rounds
    from inspector.regress.sweep.row import Entry

    model = live(Entry(name, name), "cpu", 0)
    rounds([model], ROUNDS)
    return {
        metric: [line[key] for line in model.rounds]
        for metric, key in (("latency", "seconds"), ("cpu_time", "cpu_seconds"))
    }


def share(seconds: list[float], slower: float, draw: random.Random) -> dict[str, float]:
    """The share of RUNS in each state."""
    from inspector.regress.noise import decide
    from inspector.regress.rules import EFFECT

    counts: dict[str, int] = {}
    for _ in range(RUNS):
        start = draw.randrange(len(seconds) - 2 * PAIRS + 1)
        base, head = [], []
        for place in range(start, start + 2 * PAIRS, 2):
            pair = [seconds[place], seconds[place + 1]]
            draw.shuffle(pair)
            base.append(pair[0])
            head.append(pair[1] * slower)
        state = decide(base, head, EFFECT).state
        counts[state] = counts.get(state, 0) + 1
    return {state: count / RUNS for state, count in sorted(counts.items())}


def judged(seconds: list[float], draw: random.Random) -> dict[str, Any]:
    states = {str(slower): share(seconds, slower, draw) for slower in SLOWER}
    steps = [abs(after / before - 1) for before, after in pairwise(seconds)]
    return {
        "false_failures": states["1.0"].get("regressed", 0.0),
        "power_at_10_percent": states["1.1"].get("regressed", 0.0),
        "median_step_between_rounds": round(median(steps), 5),
        "states": states,
        "seconds": [float(f"{second:.6g}") for second in seconds],
    }


def main() -> None:
    if sys.argv[1:] == ["again"]:
        known = json.loads((RESULTS / "diff_power.json").read_text())["models"]
        rounds = {
            name: {metric: entry["seconds"] for metric, entry in found.items()}
            for name, found in known.items()
        }
    else:
        rounds = {name: measured(name) for name in MODELS}
    draw = random.Random(0)
    models: dict[str, Any] = {}
    for name, found in rounds.items():
        models[name] = {metric: judged(seconds, draw) for metric, seconds in found.items()}
        for metric, entry in models[name].items():
            print(
                f"{name:20} {metric:9} false failures {entry['false_failures']:.2%}"
                f"  power at 10% {entry['power_at_10_percent']:.1%}"
                f"  rounds differ by {entry['median_step_between_rounds']:.1%}"
            )
    save("diff_power", {"runs": RUNS, "pairs": PAIRS, "models": models})


if __name__ == "__main__":
    main()
