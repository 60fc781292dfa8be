"""What a start of the command line costs, against Python and a bare import of torch.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys

from common import interleaved, median, save

COMMANDS = {
    "python": ["-c", "pass"],
    "inspect --help": ["-m", "inspector", "--help"],
    "inspect profile --help": ["-m", "inspector", "profile", "--help"],
    "import torch, torchvision": ["-c", "import torch, torchvision"],
    "inspect profile resnet50": ["-m", "inspector", "profile", "resnet50", "--no-cache"],
    "inspect profile resnet50, cached": ["-m", "inspector", "profile", "resnet50"],
}
REPEATS = 7


def main() -> None:
    def runner(words: list[str]):
        return lambda: subprocess.run([sys.executable, *words], capture_output=True, check=True)

    seconds = interleaved({name: runner(words) for name, words in COMMANDS.items()}, REPEATS)
    medians = {name: round(median(values), 3) for name, values in seconds.items()}
    ratio = medians["inspect profile resnet50"] / medians["import torch, torchvision"]
    for name, value in medians.items():
        print(f"{name:32} {value:7.3f} s")
    print(f"profile resnet50 / bare import: {ratio:.3f}")
    cached = medians["inspect profile resnet50, cached"] / medians["import torch, torchvision"]
    ratios = {"ratio_profile_to_import": round(ratio, 3), "ratio_cached_to_import": round(cached, 3)}
    save("startup", {"median_seconds": medians, **ratios})


if __name__ == "__main__":
    main()
