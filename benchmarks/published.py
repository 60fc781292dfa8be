"""A published training run against `inspect scale`: Llama 3.1 8B under FSDP2 on 8 and on 128 H100.

    python benchmarks/published.py

Published: torchtitan's benchmarks/llama3_h100_202412_torchtitan.md (github.com/pytorch/torchtitan, commit
31a17bf), tables 1 and 3, row FSDP without compile: a batch of 2 sequences of 8,192 tokens on each GPU,
bfloat16 parameters with float32 reductions, AdamW, selective activation checkpointing; tokens a second and
the most memory that torch reserved on a GPU; 33% MFU without compile. Its GPUs had 95 GiB, and 500 W.

Simulated: the same shape in transformers' code (arXiv 2407.21783, table 3), whose norms and rotary embeddings
are written in another way than torchtitan's. The checkpointing is torch's own selective one, which keeps the
results of attention and of every other matrix product, as torchtitan's option "op" does.
"""

from __future__ import annotations

import functools
import json
from typing import Any

SHAPE = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "max_position_embeddings": 131072, "use_cache": False,
}  # fmt: skip
PUBLISHED = {8: {"gib": 82.4, "tokens": 5762}, 128: {"gib": 67.0, "tokens": 5605}}
"""By GPUs: GiB reserved, and tokens a second on each GPU."""


def selective() -> Any:
    """The model, each layer of which computes its activations again but for the dearest."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in SHAPE.items() if k[0] not in "a"}))
    products: dict[bool, int] = {}

    def contexts() -> Any:
        products.clear()

        def policy(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            name = str(operator)
            if "scaled_dot_product" in name:
                return CheckpointPolicy.MUST_SAVE
            if name.startswith("aten.mm."):
                count = products[context.is_recompute] = products.get(context.is_recompute, 0) + 1
                return CheckpointPolicy.MUST_SAVE if count % 2 else CheckpointPolicy.PREFER_RECOMPUTE
            return CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    for layer in model.model.layers:
        layer.forward = functools.partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False, context_fn=contexts
        )
    return model


def row(gpus: int) -> dict[str, Any]:
    import inspector

    inputs = [f"{name}=int64[2,8192]" for name in ("input_ids", "labels")]
    report = inspector.scale(
        f"{__file__}:selective", f"dp={gpus}", inputs, optimizer="adamw", param_dtype="bfloat16",
        reduce_dtype="float32", gpu="h100", ranks=[0],
    )  # fmt: skip
    values = {name: metric.value for name, metric in report.metrics.items()}
    told = PUBLISHED[gpus]
    return {
        "gpus": gpus,
        "reserved_gib": round(values["peak_reserved"] / 2**30, 1),
        "allocated_gib": round(values["peak_allocated"] / 2**30, 1),
        "published_gib": told["gib"],
        "reserved_to_published": round(values["peak_reserved"] / 2**30 / told["gib"], 3),
        "tokens_at_most": round(2 * 8192 / values["step_bound"]),
        "published_tokens": told["tokens"],
        "mfu_at_most": round(values["mfu_bound"], 3),
        "published_mfu": 0.33,
    }


def main() -> None:
    from common import save

    rows = [row(gpus) for gpus in PUBLISHED]
    for entry in rows:
        print(json.dumps(entry))
    save("published", {"source": "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md", "rows": rows})


if __name__ == "__main__":
    main()
