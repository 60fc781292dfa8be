"""A Llama-shaped configuration of 405 billion parameters at 2,048 tokens: seconds and memory.

    python benchmarks/scale.py

The shape is that of Llama 3.1 405B (arXiv 2407.21783, table 3): 126 layers, width 16,384,
feed-forward 53,248, 128 heads, 8 key-value heads, vocabulary 128,256.
"""

from __future__ import annotations

import resource
import time

from common import save
from transformers import LlamaConfig

from inspector.api.profile import trace
from inspector.models.huggingface import from_config
from inspector.views.totals import totals

TOKENS = 2048


def main() -> None:
    config = LlamaConfig(
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=126,
        num_attention_heads=128,
        num_key_value_heads=8,
        vocab_size=128256,
        max_position_embeddings=131072,
    )
    start = time.perf_counter()
    found = trace(from_config(config, "llama-405b"), f"input_ids=int64[1,{TOKENS}]")
    seconds = time.perf_counter() - start
    sums = totals(found)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{sums['params']:,} parameters, {sums['macs']:,} MACs, {seconds:.2f} s, {peak:.2f} GiB")
    result = {"tokens": TOKENS, "seconds": round(seconds, 3), "peak_gib": round(peak, 3)}
    save("scale", {**result, "params": sums["params"], "macs": sums["macs"], "ops": sums["ops"]})


if __name__ == "__main__":
    main()
