"""How often a correct initialisation is accused: a small network, drawn anew from each seed.

    nice python benchmarks/init_family_error.py [--seeds 1000]

For every scheme the network is initialised and verified, all tensors and all checks of `inspect init
--expect` at once. A seed counts as wrong when anything fails; promised is less than 1% of the seeds for each
scheme.
`benchmarks/init_false_alarms.py` is the same on resnet50, with the names of the laws.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from common import save
from torch import nn

from inspector.initialization.apply import apply
from inspector.initialization.examine import ALPHA
from inspector.initialization.expect import expect
from inspector.initialization.schemes import choose
from inspector.initialization.targets import chosen, of_model

KINDS = (
    ("kaiming_uniform", torch.float32),
    ("default", torch.float32),
    ("kaiming_normal", torch.bfloat16),
    ("trunc_normal", torch.float32),
    ("xavier_normal", torch.float16),
)


def network(dtype: torch.dtype) -> nn.Module:
    """Layers of many kinds and sizes, of 1 to 8,640 elements."""
    layers = [
        nn.Conv2d(3, 24, 3), nn.Conv2d(24, 40, 3), nn.Conv2d(64, 64, 3, groups=64), nn.BatchNorm2d(40),
        nn.ConvTranspose2d(8, 12, 4), nn.Linear(80, 40), nn.Linear(32, 32), nn.Linear(32, 32),
        nn.Linear(8, 1), nn.Embedding(100, 16, padding_idx=0), nn.GRUCell(8, 6), nn.MultiheadAttention(16, 2),
    ]  # fmt: skip
    return nn.Sequential(*layers).to(dtype)


def accused(scheme: str, seed: int, dtype: torch.dtype) -> list[str]:
    """What fails, of a network that was initialised right."""
    torch.manual_seed(seed)
    model = network(dtype)
    choice = choose(scheme)
    if scheme == "default":  # as the constructors drew it
        outcome = expect(chosen(of_model(model), None, everything=True), choice)
    else:
        done = apply(model, choice, seed=seed)
        outcome = expect(done.targets, choice)
    return [f"{f.check}: {f.subject}" for f in outcome.findings if f.status == "fail"]


def main(seeds: int) -> None:
    wrong: dict[str, dict[int, list[str]]] = {}
    start = time.perf_counter()
    for scheme, dtype in KINDS:
        name = f"{scheme} {str(dtype).removeprefix('torch.')}"
        alarms = {seed: accused(scheme, seed, dtype) for seed in range(seeds)}
        wrong[name] = {seed: found for seed, found in alarms.items() if found}
        took = time.perf_counter() - start
        print(
            f"{name}: {len(wrong[name])} of {seeds} seeds wrong ({took:.0f} s)", file=sys.stderr, flush=True
        )
        content = {
            "seeds": seeds,
            "tensors": len(of_model(network(torch.float32))),
            "alpha": ALPHA,
            "promised": 0.01,
            "share_of_seeds_with_an_alarm": {kind: len(found) / seeds for kind, found in wrong.items()},
            "alarms": wrong,
        }
        save("init_family_error", content)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    torch.set_num_threads(1)
    main(parser.parse_args().seeds)
