"""A training step of Llama 3.1 405B on 4,096 ranks, simulated by `inspect scale`: seconds and memory of this
machine, and how they grow with ranks (not) and with layers.

    python benchmarks/scaling.py

The shape is that of Llama 3.1 405B (arXiv 2407.21783, table 3), with one sequence of 8,192 tokens on each
data-parallel rank. Each row is a command from a cold start, with the processes that it starts; what it takes
is also told as a multiple of the time of a script that only imports what it needs, and as a part of the time
of a bare script that does the same with torch alone (scaling_bare.py): seconds depend on the machine, these
two do not.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
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


IMPORTS = """
import torch.distributed.fsdp
from transformers.models.llama import modeling_llama
"""
"""What a script that simulated the same would import first."""


def row(ranks: int, layers: int) -> dict[str, Any]:
    """One simulated step, by the command."""
    mesh = f"dp={ranks // 8},tp=8"
    with tempfile.TemporaryDirectory() as folder:
        _config(folder, layers)
        answer = Path(folder) / "answer.json"
        words = [
            sys.executable,
            "-m",
            "inspector",
            "scale",
            f"hf:{folder}",
            "--mesh",
            mesh,
            "-o",
            str(answer),
        ]
        for name in ("input_ids", "labels"):
            words += ["--input", f"{name}=int64[1,8192]"]
        words += ["--optimizer", "adamw", "--dtype", "bfloat16", "--gpu", "h100", "--rank", "0"]
        used = run(words)
        values = {name: metric["value"] for name, metric in json.loads(answer.read_text())["metrics"].items()}
    return {
        "ranks": ranks, "layers": layers, "mesh": mesh, **used,
        **{name: values[name] for name in ("collectives", "param_bytes_per_rank", "peak_allocated")},
        **{name: values[name] for name in ("step_bound", "mfu_bound")},
    }  # fmt: skip


def bare() -> float:
    """Seconds of the bare script for all layers, from a cold start."""
    with tempfile.TemporaryDirectory() as folder:
        file = _config(folder, LAYERS)
        script = Path(__file__).with_name("scaling_bare.py")
        return run([sys.executable, str(script), str(file)])["seconds"]


def _config(folder: str, layers: int) -> Path:
    file = Path(folder) / "config.json"
    file.write_text(json.dumps({**SHAPE, "num_hidden_layers": layers}))
    return file


def run(words: list[str]) -> dict[str, float]:
    """A command from start to end: seconds of wall and CPU, and the most memory that it and all processes
    below it held at one moment: their proportional parts of shared pages, looked at once a second."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
        peak = max(peak, sum(map(proportional, below(process.pid))))
    seconds = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(process.stderr.read())  # type: ignore[union-attr]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_gib": round(peak / 2**20, 3)}


def below(number: int) -> list[int]:
    """A process and its descendants."""
    found = [number]
    for task in Path(f"/proc/{number}/task").glob("*/children"):
        try:
            found += [one for child in task.read_text().split() for one in below(int(child))]
        except OSError:  # it has ended
            continue
    return found


def proportional(number: int) -> int:
    """KiB of a process, shared pages divided by those who share them."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


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

    row(8, 1)  # what comes from the disk at first
    rows = [row(*which) for which in ROWS]
    imports = run([sys.executable, "-c", IMPORTS])["seconds"]
    script = bare()
    seconds = rows[-1]["seconds"]
    head = {
        **rows[-1],
        "seconds_of_imports": imports,
        "times_imports": round(seconds / imports, 2),
        "seconds_of_bare_script": script,
        "part_of_bare_script": round(seconds / script, 3),
        "load": os.getloadavg()[0],
    }
    print(plot(rows), f"\n{LAYERS} layers: {seconds} s; imports alone: {imports} s; bare script: {script} s")
    save("scaling", {**head, "plot": plot(rows).splitlines(), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
