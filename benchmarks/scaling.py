"""A training step of Llama 3.1 405B on 4,096 ranks, simulated: seconds and memory of this machine, and how
they grow with ranks (not) and with layers.

    python benchmarks/scaling.py

The shape is that of Llama 3.1 405B (arXiv 2407.21783, table 3), with one sequence of 8,192 tokens on each
data-parallel rank. Each row is a process of its own, which starts the one that simulates rank 0; both count.
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
from typing import Any

LAYERS = 126
SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 16384,
    "intermediate_size": 53248, "num_attention_heads": 128, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 131072, "use_cache": False,
}  # fmt: skip
ROWS = [(8, 8), (64, 8), (512, 8), (4096, 8), (4096, 16), (4096, 32), (4096, LAYERS)]
"""Ranks, of which 8 are tensor parallel (all, of 8), and layers."""


def row(ranks: int, layers: int) -> dict[str, Any]:
    """One simulated step, in this process and the one that it starts."""
    import inspector

    start = time.perf_counter()
    mesh = f"dp={ranks // 8},tp=8"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps({**SHAPE, "num_hidden_layers": layers}))
        inputs = [f"{name}=int64[1,8192]" for name in ("input_ids", "labels")]
        report = inspector.scale(
            f"hf:{folder}", mesh, inputs, optimizer="adamw", dtype="bfloat16", gpu="h100", ranks=[0],
        )  # fmt: skip
    seconds = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    values = {name: metric.value for name, metric in report.metrics.items()}
    return {
        "ranks": ranks,
        "layers": layers,
        "mesh": mesh,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(sum(one.ru_utime + one.ru_stime for one in used), 2),
        "peak_gib": round(sum(one.ru_maxrss for one in used) / 2**20, 3),
        **{name: values[name] for name in ("collectives", "param_bytes_per_rank", "peak_allocated")},
        "step_bound": values["step_bound"],
        "mfu_bound": values["mfu_bound"],
    }


def alone(ranks: int, layers: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(ranks), str(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def plot(rows: list[dict[str, Any]]) -> str:
    """The CPU's seconds of each row, imports included, as bars."""
    most = max(entry["cpu_seconds"] for entry in rows)
    return "\n".join(
        f"{entry['ranks']:5,} ranks {entry['layers']:4} layers {entry['cpu_seconds']:6.2f} s of CPU"
        f" {entry['seconds']:6.2f} s {entry['peak_gib']:5.2f} GiB |"
        f"{'#' * round(40 * entry['cpu_seconds'] / most)}"
        for entry in rows
    )


def main(words: list[str]) -> None:
    if len(words) >= 2:
        print(json.dumps(row(int(words[0]), int(words[1]))))
        return
    from common import save

    rows = [alone(*which) for which in ROWS]
    print(plot(rows))
    save("scaling", {**rows[-1], "load": os.getloadavg()[0], "plot": plot(rows).splitlines(), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
