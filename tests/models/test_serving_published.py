"""Twelve language models by their published dimensions, at their real size, on meta: parameters, active
parameters and caches as published or derived by hand, and the decode step of three kinds of attention.

Dimensions are those of each model's config.json on the hub. Parameters: the safetensors totals there, or the
figures of the paper or model card that is named.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inspector
from inspector.profiling.views.serving import serving
from inspector.tracing.record import Trace

transformers = pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.once

LONG = 131_072


def llama(width: int, inner: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "vocab_size": 128256, "max_position_embeddings": LONG, "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "tie_word_embeddings": False,
    }  # fmt: skip


def gpt_oss(layers: int, experts: int) -> dict[str, Any]:
    return {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "dtype": "bfloat16",
        "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 64, "num_experts_per_tok": 4, "sliding_window": 128,
        "tie_word_embeddings": False, "max_position_embeddings": LONG, "num_hidden_layers": layers,
        "num_local_experts": experts,
    }  # fmt: skip


MISTRAL = {
    "dtype": "bfloat16", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "Llama-3.1-8B": llama(4096, 14336, 32, 32),
    "Llama-3.1-70B": llama(8192, 28672, 80, 64),
    "Llama-3.1-405B": llama(16384, 53248, 126, 128),
    "Mistral-7B-v0.1": {
        **MISTRAL, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 4096
    },
    "Mixtral-8x7B": {
        **MISTRAL, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 8,
        "num_experts_per_tok": 2, "sliding_window": None,
    },
    "Qwen3-30B-A3B": {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "dtype": "bfloat16",
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
        "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [],
        "tie_word_embeddings": False, "max_position_embeddings": 40960, "norm_topk_prob": True,
    },
    "DeepSeek-V3": {
        "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "dtype": "bfloat16",
        "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
        "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128,
        "n_shared_experts": 1, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8,
        "topk_group": 4, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
        "v_head_dim": 128, "qk_nope_head_dim": 128, "first_k_dense_replace": 3,
        "max_position_embeddings": 163840, "tie_word_embeddings": False,
    },
    "Gemma-3-27B": {
        "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "dtype": "bfloat16",
        "vocab_size": 262208, "hidden_size": 5376, "intermediate_size": 21504, "num_hidden_layers": 62,
        "num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "sliding_window": 1024,
        "max_position_embeddings": LONG, "query_pre_attn_scalar": 168,
    },
    "gpt-oss-20b": gpt_oss(24, 32),
    "gpt-oss-120b": gpt_oss(36, 128),
    "Mamba-2-2.7B": {
        "architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2", "dtype": "bfloat16",
        "vocab_size": 50288, "hidden_size": 2560, "num_hidden_layers": 64, "num_heads": 80, "head_dim": 64,
        "state_size": 128, "n_groups": 1, "expand": 2, "conv_kernel": 4, "chunk_size": 256,
        "tie_word_embeddings": True, "use_bias": False, "use_conv_bias": True,
    },
    "Phi-4": {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "dtype": "bfloat16", "vocab_size": 100352,
        "hidden_size": 5120, "intermediate_size": 17920, "num_hidden_layers": 40, "num_attention_heads": 40,
        "num_key_value_heads": 10, "max_position_embeddings": 16384, "tie_word_embeddings": False,
        "pad_token_id": 100349, "bos_token_id": 100257, "eos_token_id": 100257,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trace]:
    """A decode step of one sequence after 131,072 tokens."""
    made: dict[str, Trace] = {}

    def decode(name: str) -> Trace:
        if name not in made:
            folder: Path = tmp_path_factory.mktemp("model")
            (folder / "config.json").write_text(json.dumps(CONFIGURATIONS[name]))
            made[name] = inspector.trace(f"hf:{folder}", phase="decode", context=LONG)
        return made[name]

    return decode


PARAMETERS = {
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mixtral-8x7B": 46_702_792_704,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Phi-4": 14_659_507_200,
}
"""The totals of the safetensors files on the hub."""
ROUNDED = {
    "DeepSeek-V3": 671e9,  # the paper, without the multi-token-prediction module
    "gpt-oss-20b": 20.91e9,  # the model card
    "gpt-oss-120b": 116.83e9,
    "Mamba-2-2.7B": 2.70e9,
    "Gemma-3-27B": 27.0e9,  # the report: 1,416 M of the embedding and 25,600 M of the rest
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_parameters_are_those_published(name: str, step: Callable[[str], Trace]) -> None:
    params = sum(entry.numel for entry in step(name).state if entry.kind == "parameter")
    if name in PARAMETERS:
        assert params == PARAMETERS[name]
    else:
        assert params == pytest.approx(ROUNDED[name], rel=1e-3)
    assert all(op.known for op in step(name).ops)


ACTIVE = {
    # The models' papers and cards. Those of Mixtral and Qwen count the input embedding, those of gpt-oss and
    # DeepSeek do not.
    "Mixtral-8x7B": ("active_params", 12.9e9),
    "Qwen3-30B-A3B": ("active_params", 3.3e9),
    "DeepSeek-V3": ("active_params_no_lookup", 37e9),
    "gpt-oss-20b": ("active_params_no_lookup", 3.61e9),
    "gpt-oss-120b": ("active_params_no_lookup", 5.13e9),
}


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_those_published(name: str, step: Callable[[str], Trace]) -> None:
    definition, published = ACTIVE[name]
    assert serving(step(name))[definition] == pytest.approx(published, rel=0.02)


CACHES = {
    # Bytes that one more token adds: keys and values x layers x heads x channels x 2 bytes. Then the whole of
    # a sequence with 131,072 tokens, where that is not their product.
    "Llama-3.1-8B": (2 * 32 * 8 * 128 * 2, None),
    "Llama-3.1-70B": (2 * 80 * 8 * 128 * 2, None),
    "Llama-3.1-405B": (2 * 126 * 8 * 128 * 2, None),
    "Mistral-7B-v0.1": (0, 2 * 32 * 8 * 128 * 2 * 4095),  # the window holds the new token too
    "Mixtral-8x7B": (2 * 32 * 8 * 128 * 2, None),
    "Qwen3-30B-A3B": (2 * 48 * 4 * 128 * 2, None),
    "DeepSeek-V3": (61 * (512 + 64) * 2, None),  # latents, and the rotary channels
    "Gemma-3-27B": (  # every sixth of 62 layers sees all
        2 * 10 * 16 * 128 * 2, 2 * 16 * 128 * 2 * (10 * LONG + 52 * 1023)
    ),
    "gpt-oss-20b": (2 * 12 * 8 * 64 * 2, 2 * 12 * 8 * 64 * 2 * (LONG + 127)),  # every other layer
    "gpt-oss-120b": (2 * 18 * 8 * 64 * 2, 2 * 18 * 8 * 64 * 2 * (LONG + 127)),
    "Mamba-2-2.7B": (0, 64 * (80 * 64 * 128 * 4 + (5120 + 2 * 128) * 4 * 2)),  # states, convolution's inputs
    "Phi-4": (2 * 40 * 10 * 128 * 2, None),
}  # fmt: skip


@pytest.mark.parametrize("name", CACHES)
def test_caches_are_those_derived_by_hand(name: str, step: Callable[[str], Trace]) -> None:
    token, whole = CACHES[name]
    served = step(name).served
    assert served is not None
    if name == "DeepSeek-V3" and served.cache_bytes_per_token != token:
        pytest.skip("this transformers keeps unfolded keys and values")
    assert served.cache_bytes_per_token == token
    assert served.cache_bytes == (token * LONG if whole is None else whole)


def test_a_cache_that_another_tool_publishes(tmp_path: Path) -> None:
    """hf-mem (its readme) gives 24,964,497,408 bytes for MiniMax-M2 at 196,608 tokens: 8 heads of 128 in 62
    layers, one byte for each number, because the checkpoint is in FP8. transformers keeps the cache in the
    dtype of the activations, two bytes."""
    if "minimax_m2" not in transformers.CONFIG_MAPPING:
        pytest.skip("this transformers has no minimax_m2")
    config = {
        "architectures": ["MiniMaxM2ForCausalLM"], "model_type": "minimax_m2", "dtype": "bfloat16",
        "vocab_size": 200064, "hidden_size": 3072, "intermediate_size": 1536, "num_hidden_layers": 62,
        "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 256,
        "num_experts_per_tok": 8, "max_position_embeddings": 196608,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    served = inspector.trace(f"hf:{tmp_path}", phase="decode", context=196_608).served
    assert served is not None
    assert served.cache_bytes == 2 * 24_964_497_408


def macs(trace: Trace) -> int:
    return sum(op.macs or 0 for op in trace.ops)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Llama-3.1-405B"])
def test_a_decode_step_of_a_llama(name: str, step: Callable[[str], Trace]) -> None:
    config = CONFIGURATIONS[name]
    width, inner, layers = (config[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers"))
    heads = config["num_attention_heads"]
    layer = 2 * width * width + 2 * width * 8 * 128 + 3 * width * inner + 2 * heads * 128 * (LONG + 1)
    assert macs(step(name)) == layers * layer + width * 128256


def test_a_decode_step_of_windows(step: Callable[[str], Trace]) -> None:
    # 10 layers see all 131,073 tokens, 52 the last 1,024.
    layer = 5376 * 128 * (32 + 16 + 16 + 32) + 3 * 5376 * 21504
    scores = 2 * 32 * 128 * (10 * (LONG + 1) + 52 * 1024)
    assert macs(step("Gemma-3-27B")) == 62 * layer + scores + 5376 * 262208


def test_a_decode_step_of_latent_attention(step: Callable[[str], Trace]) -> None:
    # transformers unfolds the latents of all tokens in each step, 512 to 128 heads of 128 + 128.
    trace = step("DeepSeek-V3")
    if trace.served is not None and trace.served.cache_bytes_per_token != 61 * 576 * 2:
        pytest.skip("this transformers keeps unfolded keys and values")
    down = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576
    unfolded = (LONG + 1) * 512 * 128 * 256
    attention = down + unfolded + 128 * (LONG + 1) * (192 + 128) + 128 * 128 * 7168
    dense, expert = 3 * 7168 * 18432, 3 * 7168 * 2048
    routed = 9 * expert + 7168 * 256  # 8 and the shared one, and the router
    assert macs(trace) == 61 * attention + 3 * dense + 58 * routed + 7168 * 129280
