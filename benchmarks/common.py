"""What the benchmark scripts share: repeated interleaved timing, and results as files."""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def interleaved(work: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each function, run in turn `repeats` times after one warm-up round, so that a slow
    phase of a shared machine meets all of them."""
    for function in work.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, function in work.items():
            start = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median(values: list[float]) -> float:
    return statistics.median(values)


def environment() -> dict[str, Any]:
    """What a result was measured with."""
    import torch
    import torchvision

    import inspector

    return {
        "inspector": inspector.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def save(name: str, content: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json with the environment."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"environment": environment(), **content}, indent=1) + "\n")
    print(f"wrote {file.relative_to(Path(__file__).parent.parent)}", file=sys.stderr)
