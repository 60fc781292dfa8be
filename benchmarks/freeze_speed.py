"""What the verification of `inspect freeze` costs: the command against a bare training script.

    python benchmarks/freeze_speed.py

The script builds the model, freezes the same stages by hand, and takes the same steps with the same
two optimizers on inputs of the same shape; both run from a cold start, in turn. The command also
finds the stages, compares every byte, probes the frozen part and trains two DDP processes.
"""

from __future__ import annotations

import subprocess
import sys

from common import interleaved, median, save

REPEATS = 3
COMMAND = [sys.executable, "-m", "inspector", "freeze", "resnet50", "--at", "2"]
BARE = """
import torch
from torchvision.models import resnet50

torch.manual_seed(0)
model = resnet50()
for module in (model.conv1, model.bn1, model.layer1):
    module.requires_grad_(False)
model.train()
x, target = torch.randn(2, 3, 32, 32), torch.randn(2, 1000)
start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
for make in (
    lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1),
    lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.1),
):
    model.load_state_dict(start)
    optimizer = make(list(model.parameters()))
    for _ in range(2):
        optimizer.zero_grad()
        (model(x) * target).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
"""


def run(words: list[str]) -> None:
    subprocess.run(words, check=True, capture_output=True)


def main() -> None:
    work = {
        "bare script": lambda: run([sys.executable, "-c", BARE]),
        "freeze": lambda: run(COMMAND),
        "freeze --no-ddp": lambda: run([*COMMAND, "--no-ddp"]),
    }
    seconds = interleaved(work, REPEATS)
    base = median(seconds["bare script"])
    ratios = {name: round(median(values) / base, 2) for name, values in seconds.items()}
    print(ratios)
    save("freeze_speed", {"model": "resnet50 --at 2", "ratio_to_bare": ratios, "seconds": seconds})


if __name__ == "__main__":
    main()
