"""How often a correct model is accused: torchvision's resnet50, built anew from each seed.

A seed counts as wrong when any of its 161 tensors gets a wrong label: `differs`, `constant` or
`uninitialised`, or a set of laws that lacks the one it was drawn from. Both ways are counted: --expect
auto on all tensors, and --expect kaiming_normal --mode fan_out on the convolutions.

    python benchmarks/init_false_alarms.py [--seeds 1000]
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
import torchvision

from inspector.initialization.examine import ALPHA
from inspector.initialization.expect import Row, auto, expect
from inspector.initialization.schemes import choose
from inspector.initialization.targets import Target, chosen, of_model

if __package__:
    from benchmarks.common import save
else:
    from common import save


def truth(target: Target) -> str:
    """The law that torchvision's resnet draws: its loop over the modules, and torch's default head."""
    if target.role.startswith("norm"):
        return "zeros" if target.role == "norm bias" else "ones"
    if target.layer == "fc":
        return "default (kaiming_uniform a=sqrt(5))" if target.role == "weight" else "default"
    return "kaiming_normal a=0 fan_out"


def wrong(row: Row) -> bool:
    if row.status in ("differs", "constant", "uninitialised"):
        return True
    own = truth(row.target)
    twins = ("kaiming_normal a=0 fan_in",) if own.endswith("fan_out") and row.status == "matches" else ()
    return own not in row.labels or row.labels[0] in twins


def run(seeds: int) -> dict[str, object]:
    choice = choose("kaiming_normal", mode="fan_out")
    accused: dict[str, list[list[object]]] = {"auto": [], "expect": []}
    statuses: dict[str, int] = {}
    start = time.perf_counter()
    for seed in range(seeds):
        torch.manual_seed(seed)
        targets = of_model(torchvision.models.resnet50())
        found = auto(targets)
        for row in found.rows:
            statuses[row.status] = statuses.get(row.status, 0) + 1
        convolutions = chosen(targets, ["conv*", "*.downsample.0"])
        for way, rows in (("auto", found.rows), ("expect", expect(convolutions, choice).rows)):
            accused[way] += [[seed, row.target.name, row.status, *row.labels] for row in rows if wrong(row)]
        if seed % 10 == 9:
            each = (time.perf_counter() - start) / (seed + 1)
            wrongs = {way: len({entry[0] for entry in entries}) for way, entries in accused.items()}
            print(f"{seed + 1} seeds, wrong {wrongs}, {each:.2f} s each", file=sys.stderr, flush=True)
    return {
        "model": "torchvision resnet50",
        "alpha": ALPHA,
        "seeds": seeds,
        "tensors_per_seed": 161,
        "seeds_with_a_wrong_label": {
            way: len({entry[0] for entry in entries}) for way, entries in accused.items()
        },
        "wrong_labels": accused,
        "statuses_under_auto": statuses,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    torch.set_num_threads(1)
    save("init_false_alarms", run(parser.parse_args().seeds))
