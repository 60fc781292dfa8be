"""What a start of the command line costs: whole processes against imports that any such program pays.

python benchmarks/startup.py

Both sides of a ratio run in turn in one run; beside the wall clock stands the CPU time of the process, which
a busy machine distorts less, and of which the two ratios at the end are.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import median, save

BASELINE = str(Path(__file__).parent / "baselines" / "torchvision.json")
NET = """
from torch import nn


def build():
    body = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(14400, 10))
"""
REPEATS = 5
INSPECT = ("-m", "inspector")
RATIOS = {
    "cold": ("inspect profile resnet50", "import torch, torchvision", 0.75),
    "user_file": ("inspect profile your_net.py:build", "import torch", 1.3),
    "cached": ("inspect profile resnet50, cached", "import torch", 0.1),
    "diff": ("inspect diff, 121 models", "import pandas", 0.5),
    "diff_changed": ("inspect diff, 121 models, one changed", "import pandas", None),
    "checkpoint": ("inspect params checkpoint.safetensors", "python", 20.0),
}
"""By name: what is measured, against what, and the ratio that is to be reached."""


def commands(folder: Path) -> dict[str, tuple[str, ...]]:
    """The words after `python` of everything that is measured."""
    net, head = folder / "your_net.py", folder / "head.json"
    net.write_text(NET)
    text = Path(BASELINE).read_text()
    assert text.count('"macs": 4089184256') > 0
    head.write_text(text.replace('"macs": 4089184256', '"macs": 4089184257'))
    return {
        "python": ("-c", "pass"),
        "import pandas": ("-c", "import pandas"),
        "import torch": ("-c", "import torch"),
        "import torch, torchvision": ("-c", "import torch, torchvision"),
        "inspect --help": (*INSPECT, "--help"),
        "inspect diff, 121 models": (*INSPECT, "diff", BASELINE, BASELINE),
        "inspect diff, 121 models, one changed": (*INSPECT, "diff", BASELINE, str(head)),
        "inspect params checkpoint.safetensors": (*INSPECT, "params", str(_checkpoint(folder))),
        "inspect profile resnet50, cached": (*INSPECT, "profile", "resnet50"),
        "inspect profile your_net.py:build": (
            *INSPECT, "profile", f"{net}:build", "--input", "1x3x32x32",
        ),
        "inspect profile resnet50": (*INSPECT, "profile", "resnet50", "--no-cache"),
    }  # fmt: skip


def _checkpoint(folder: Path) -> Path:
    """A file with the header of a model of 70 billion parameters (80 layers, as Llama 2's), a hole for the
    values."""
    shapes = {"model.embed_tokens.weight": (32000, 8192), "lm_head.weight": (32000, 8192)}
    layer = {
        "self_attn.q_proj": (8192, 8192), "self_attn.k_proj": (1024, 8192), "self_attn.v_proj": (1024, 8192),
        "self_attn.o_proj": (8192, 8192), "mlp.gate_proj": (28672, 8192), "mlp.up_proj": (28672, 8192),
        "mlp.down_proj": (8192, 28672), "input_layernorm": (8192,), "post_attention_layernorm": (8192,),
    }  # fmt: skip
    for number in range(80):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * _product(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    data = json.dumps(header).encode()
    file = folder / "checkpoint.safetensors"
    with file.open("wb") as stream:
        stream.write(len(data).to_bytes(8, "little") + data)
        stream.truncate(8 + len(data) + end)
    return file


def _product(shape: tuple[int, ...]) -> int:
    return shape[0] * (shape[1] if len(shape) > 1 else 1)


def run(words: tuple[str, ...]) -> tuple[float, float]:
    """Wall and CPU seconds of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = name
        work = commands(Path(name))
        for words in work.values():  # a round that is not counted: files, byte code, the cached trace
            run(words)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
        for _ in range(REPEATS):
            for key, words in work.items():
                taken[key].append(run(words))
    wall = {key: round(median([seconds for seconds, _ in times]), 3) for key, times in taken.items()}
    cpu = {key: round(median([seconds for _, seconds in times]), 3) for key, times in taken.items()}
    ratios = {}
    for key, (one, two, wanted) in RATIOS.items():
        quotients = {
            kind: round(values[one] / values[two], 3) for kind, values in (("wall", wall), ("cpu", cpu))
        }
        ratios[key] = {"of": one, "to": two, **quotients, "wanted": wanted}
    for key in wall:
        print(f"{key:40} {wall[key]:7.3f} s, CPU {cpu[key]:7.3f} s")
    for key, ratio in ratios.items():
        print(f"{key:12} wall {ratio['wall']:6.3f}, CPU {ratio['cpu']:6.3f}, wanted {ratio['wanted']}")
    cached = cpu["inspect profile resnet50, cached"] / cpu["import torch, torchvision"]
    save(
        "startup",
        {
            "median_seconds": wall,
            "median_cpu_seconds": cpu,
            "ratios": ratios,
            "ratio_profile_to_import": ratios["cold"]["cpu"],
            "ratio_cached_to_import": round(cached, 3),
        },
    )


if __name__ == "__main__":
    main()
