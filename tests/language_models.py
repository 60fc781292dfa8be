"""Language models of transformers that are small enough to run: one of each family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", minversion="5.0")

SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SMALL, **more})).eval()


FAMILIES = (
    "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma", "gemma2", "gemma3_text", "phi",
    "phi3", "gpt2", "gpt_neox", "gptj", "opt", "bloom", "falcon", "stablelm", "starcoder2", "cohere",
    "cohere2", "olmo", "olmo2", "granite", "glm", "gpt_oss", "deepseek_v3", "mamba2", "bamba", "jamba",
    "falcon_h1", "qwen3_next",
)  # fmt: skip


def small_of(family: str) -> Any:
    """A model of two layers, 32 wide."""
    config = transformers.CONFIG_MAPPING[family]()
    narrow = {
        **SMALL, "n_embd": 32, "n_head": 4, "n_layer": 2, "head_dim": 8, "n_inner": 64, "ffn_dim": 64,
        "word_embed_proj_dim": 32, "moe_intermediate_size": 16, "num_local_experts": 4, "num_experts": 4,
        "num_experts_per_tok": 2, "n_positions": 256, "rotary_dim": 8, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "sliding_window": 8,
    }  # fmt: skip
    own = {
        "deepseek_v3": {
            "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
            "v_head_dim": 8, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_key_value_heads": 4,
            "head_dim": 4,
        },
        "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16, "expand": 2, "n_groups": 1},
        "bamba": {
            "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 1,
            "attn_layer_indices": [1],
        },
        "falcon_h1": {
            "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 1
        },
        "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "mamba_d_state": 8},
        "qwen3_next": {
            "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
            "linear_value_head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
            "shared_expert_intermediate_size": 16,
        },
        "gptj": {"rotary_dim": 8},
    }.get(family, {})  # fmt: skip
    defaults = config.to_dict()
    fields = {key: value for key, value in narrow.items() if key in defaults}
    if defaults.get("layer_types") and "layer_types" not in own:
        kinds = list(dict.fromkeys(defaults["layer_types"]))
        own = {**own, "layer_types": (kinds * 2)[:2]}
    torch.manual_seed(0)
    made = type(config)(**{**fields, **own})
    return transformers.AutoModelForCausalLM.from_config(made).float().eval()
