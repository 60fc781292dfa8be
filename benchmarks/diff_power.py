"""How often `inspect diff` fails an unchanged model, and how often it catches one that is 10% slower.

    python benchmarks/diff_power.py           measure rounds, then resample them
    python benchmarks/diff_power.py again     resample the rounds of the committed result

Rounds of one model are measured as `inspect table --measure latency` does. A run takes consecutive pairs of
them from a random place and calls one of each pair BASE and the other HEAD, by a coin (A/A); for power, HEAD's
seconds are multiplied. What is counted is the comparison's own verdict, noise.decide.
"""

from __future__ import annotations

import random
import sys
from typing import Any

from common import RESULTS, median, save

MODELS = {"resnet18": None, "mobilenet_v3_small": None, "squeezenet1_1": None}
ROUNDS = 240
RUNS = 1000
PAIRS = 10
"""As `inspect table --measure latency` takes by default."""
SLOWER = (1.0, 1.02, 1.05, 1.10, 1.20)


def measured(name: str) -> list[float]:
    from inspector.api.measure import live, rounds
    from inspector.api.table_row import Entry

    model = live(Entry(name, name), "cpu", 0)
    rounds([model], ROUNDS)
    return [line["seconds"] for line in model.rounds]


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


def main() -> None:
    import json

    if sys.argv[1:] == ["again"]:
        known = json.loads((RESULTS / "diff_power.json").read_text())["models"]
        rounds = {name: entry["seconds"] for name, entry in known.items()}
    else:
        rounds = {name: measured(name) for name in MODELS}
    draw = random.Random(0)
    models: dict[str, Any] = {}
    for name, seconds in rounds.items():
        states = {str(slower): share(seconds, slower, draw) for slower in SLOWER}
        steps = [abs(b / a - 1) for a, b in zip(seconds, seconds[1:])]
        models[name] = {
            "false_failures": states["1.0"].get("regressed", 0.0),
            "power_at_10_percent": states["1.1"].get("regressed", 0.0),
            "median_step_between_rounds": round(median(steps), 5),
            "states": states,
            "seconds": [float(f"{second:.6g}") for second in seconds],
        }
        print(
            f"{name:22} false failures {models[name]['false_failures']:.2%}"
            f"  power at 10% {models[name]['power_at_10_percent']:.1%}"
            f"  noise {models[name]['median_step_between_rounds']:.1%}"
        )
    save("diff_power", {"runs": RUNS, "pairs": PAIRS, "models": models})


if __name__ == "__main__":
    main()
