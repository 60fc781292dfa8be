"""A Llama-shaped configuration of 405 billion parameters at 8,192 tokens: counts, and the memory of a
training step. Seconds and peak of this process; how they grow with layers, and with tokens.

    python benchmarks/scale.py

The shape is that of Llama 3.1 405B (arXiv 2407.21783, table 3): 126 layers, width 16,384, feed-forward
53,248, 128 heads, 8 key-value heads, vocabulary 128,256. Each row is a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

LAYERS, TOKENS = 126, 8192
GROWTH = [(layers, TOKENS) for layers in (16, 32, 64, LAYERS)] + [
    (32, tokens) for tokens in (512, 2048, 32768)
]


def config(layers: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=layers,
        num_attention_heads=128,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
        use_cache=False,
    )


def row(layers: int, tokens: int) -> dict[str, Any]:
    """One training step predicted, in this process."""
    from inspector.footprint.report import memory
    from inspector.models.huggingface import from_config
    from inspector.profiling.views.totals import totals

    start = time.perf_counter()
    recipe = from_config(config(layers), f"llama of {layers} layers")
    inputs = [f"{name}=int64[1,{tokens}]" for name in ("input_ids", "labels")]
    report = memory(recipe, inputs, phase="train", optimizer="adamw", dtype="bfloat16")
    seconds = time.perf_counter() - start
    sums = totals(report.trace)
    return {
        "layers": layers,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time(), 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        "ops": sums["ops"],
        "params": sums["params"],
        "macs": sums["macs"],
        "causal_macs": sums.get("causal_macs"),
        "peak_allocated": report.metrics["peak_allocated"].value,
    }


def alone(layers: int, tokens: int) -> dict[str, Any]:
    command = [sys.executable, __file__, str(layers), str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def plot(rows: list[dict[str, Any]]) -> str:
    """The CPU's seconds for each row (imports included), and for each thousand operators, as bars: the wall
    clock of a shared machine says less."""
    most = max(entry["cpu_seconds"] for entry in rows)
    return "\n".join(
        f"{entry['layers']:4} layers {entry['tokens']:6,} tokens {entry['ops']:7,} operators"
        f" {entry['cpu_seconds']:6.2f} s {1000 * entry['cpu_seconds'] / entry['ops']:5.2f} s/1000"
        f" {entry['peak_gib']:5.2f} GiB |{'#' * round(40 * entry['cpu_seconds'] / most)}"
        for entry in rows
    )


def main(words: list[str]) -> None:
    if words:
        print(json.dumps(row(int(words[0]), int(words[1]))))
        return
    from common import save

    rows = [alone(layers, tokens) for layers, tokens in GROWTH]
    print(plot(rows))
    whole = next(entry for entry in rows if entry["layers"] == LAYERS)
    save("scale", {**whole, "plot": plot(rows).splitlines(), "rows": rows})


if __name__ == "__main__":
    main(sys.argv[1:])
