"""How near each counter comes to the figure that torchvision publishes with each weights entry.

    python benchmarks/sweep.py && python benchmarks/accuracy.py

Published figures (`_ops`) are GMACs with three digits after the point: an error is measured beyond half
of the last one. A detector's figure belongs to a number of boxes. For five of them torchvision took it with
fewer than the model's limits allow (tests/models/test_torchvision_published.py): ours, the most that can
happen, is then above it. The other counters count the boxes that random weights give.
"""

from __future__ import annotations

import json

from common import RESULTS, save
from torchvision.models import get_model_weights

WITHIN = {"rounding": 0.0, "0.5%": 0.005, "1%": 0.01, "5%": 0.05}


def published(spec: str) -> float:
    name, _, entry = spec.partition("@")
    return get_model_weights(name)[entry].meta["_ops"]


def error(macs: int, ops: float) -> float:
    """Relative distance beyond the rounding of the published figure."""
    return max(0.0, abs(macs / 1e9 - ops) - 0.0005 - 1e-12) / ops


def main() -> None:
    content = json.loads((RESULTS / "sweep.json").read_text())
    same = content["same_as"]
    counters = {}
    for name, result in content["counters"].items():
        found = {spec: result["macs"][first] for spec, first in same.items()}
        errors = {
            spec: error(macs, published(spec)) for spec, macs in found.items() if not isinstance(macs, str)
        }
        counters[name] = {
            "entries": len(found),
            "failed": len(found) - len(errors),
            **{
                f"within {label}": sum(value <= bound for value in errors.values())
                for label, bound in WITHIN.items()
            },
            "beyond rounding": {
                spec: round(value, 6) for spec, value in sorted(errors.items(), key=lambda e: -e[1]) if value
            },
        }
        print(name, {key: value for key, value in counters[name].items() if not isinstance(value, dict)})
    save("accuracy", {"swept": content["environment"], "counters": counters})


if __name__ == "__main__":
    main()
