"""Prefill and decode of small language models: the cache, the counts by hand, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import inspector
from inspector.models.serving import Serving
from inspector.profiling.views.serving import serving
from inspector.tracing._torch import tree_leaves
from inspector.tracing.record import Trace
from tests.language_models import FAMILIES, SMALL, llama, small_of

transformers = pytest.importorskip("transformers", minversion="5.0")

LAYER = 32 * (32 + 16 + 16 + 32) + 3 * 32 * 48
"""q and o of 32 x 32, k and v of 32 x 16 (2 heads of 8); gate, up and down of 32 x 48."""
HEAD = 32 * 96


def count(model: Any, phase: str, **step: Any) -> Trace:
    return inspector.trace(model, phase=phase, **step)


def macs(trace: Trace) -> int:
    return sum(op.macs or 0 for op in trace.ops)


def moved(trace: Trace) -> int:
    """Bytes, without those of the length of a window: one number, which transformers copies from the CPU to a
    device that is another."""
    ops = [op for op in trace.ops if op.name != "aten._to_copy" or op.inputs[0].shape]
    return sum(op.bytes_read + op.bytes_written for op in ops)


def effective(trace: Trace) -> int:
    return sum(round((op.macs or 0) * (op.density or 0)) for op in trace.ops)


def test_a_decode_step_of_a_llama_is_what_its_layers_multiply() -> None:
    # 3 sequences, 1 token each: both layers, the head; scores and values with 10 + 1 keys, 4 heads of 8.
    trace = count(llama(), "decode", context=10, batch=3)
    assert macs(trace) == 3 * (2 * (LAYER + 2 * 4 * 8 * 11) + HEAD)
    assert trace.phase == "decode"


def test_the_cache_of_grouped_heads_holds_only_those() -> None:
    # Keys and values, 2 layers, 2 heads of 8, float32.
    served = count(llama(), "decode", context=10, batch=3).served
    assert served is not None
    assert (served.cache_bytes_per_token, served.cache_bytes) == (
        2 * 2 * 2 * 8 * 4,
        2 * 2 * 2 * 8 * 4 * 10 * 3,
    )
    assert (served.tokens, served.cache) == (3, "DynamicCache")


def test_a_prefill_is_the_sum_of_its_decode_steps_under_masks() -> None:
    # The prompt asks for the logits of its last token alone, the steps for one each.
    model, length = llama(), 6
    first = count(model, "prefill", context=1)
    steps = [effective(count(model, "decode", context=n)) for n in range(1, length)]
    whole = effective(count(model, "prefill", context=length))
    assert whole + (length - 1) * HEAD == effective(first) + sum(steps)


def test_a_static_cache_is_attended_to_in_all_its_length() -> None:
    # 10 + 1 places of which all are multiplied; nothing is added by a token.
    trace = count(llama(), "decode", context=10, kv_cache="static")
    assert macs(trace) == 2 * (LAYER + 2 * 4 * 8 * 11) + HEAD
    assert trace.served is not None
    assert (trace.served.cache_bytes_per_token, trace.served.cache_bytes) == (0, 2 * 2 * 2 * 8 * 4 * 11)


def test_a_window_bounds_keys_and_cache() -> None:
    # A window of 4: the cache keeps 3, and the new token is the 4th.
    torch.manual_seed(0)
    model = transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL, sliding_window=4)).eval()
    trace = count(model, "decode", context=50)
    assert macs(trace) == 2 * (LAYER + 2 * 4 * 8 * 4) + HEAD
    assert trace.served is not None
    assert (trace.served.cache_bytes, trace.served.cache_bytes_per_token) == (2 * 2 * 2 * 8 * 4 * 3, 0)


def latent() -> Any:
    """One dense layer with latent attention: 16 latents and 4 rotary channels are kept of a token."""
    torch.manual_seed(0)
    config = transformers.DeepseekV3Config(
        **{**SMALL, "num_hidden_layers": 1, "num_key_value_heads": 4}, kv_lora_rank=16, q_lora_rank=24,
        qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8, first_k_dense_replace=1, n_routed_experts=4,
        n_group=1, topk_group=1, num_experts_per_tok=2, moe_intermediate_size=16,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config).eval()


def test_latent_attention_keeps_latents_and_unfolds_them_each_step() -> None:
    model = latent()
    trace = count(model, "decode", context=10)
    assert trace.served is not None
    if trace.served.cache_bytes_per_token != (16 + 4) * 4:
        pytest.skip("this transformers keeps unfolded keys and values")
    # Down to 24 and up to 4 heads of 12; down to 16 + 4; of all 11 tokens up to 4 heads of 8 + 8; scores over
    # 12 channels, values over 8; back to 32.
    attention = 32 * 24 + 24 * 4 * 12 + 32 * 20 + 11 * 16 * 4 * 16 + 4 * 11 * (12 + 8) + 4 * 8 * 32
    assert macs(trace) == attention + 3 * 32 * 48 + HEAD


def experts(**more: Any) -> Any:
    torch.manual_seed(0)
    fields = {**SMALL, "num_local_experts": 8, "num_experts_per_tok": 2, **more}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**fields)).eval()


def test_of_experts_those_are_active_and_read_that_a_token_goes_to() -> None:
    model = experts(tie_word_embeddings=False)
    trace = count(model, "decode", context=10)
    numbers = serving(trace)
    total = sum(parameter.numel() for parameter in model.parameters())
    of_experts = 2 * 8 * 3 * 32 * 48
    assert numbers["active_params"] == total - of_experts * 6 // 8
    assert numbers["active_params_no_lookup"] == total - of_experts * 6 // 8 - HEAD
    # One token reads 2 of 8 experts, one row of the embedding, and all else.
    assert numbers["weights_read"] == 4 * (total - of_experts * 6 // 8 - HEAD + 32)
    # 16 tokens go to all experts where they spread evenly.
    many = serving(count(model, "decode", context=10, batch=16))
    assert many["weights_read"] == 4 * (total - HEAD + 16 * 32)
    assert many["active_params"] == numbers["active_params"]


@pytest.mark.once
@pytest.mark.parametrize("family", FAMILIES)
def test_meta_counts_what_the_cpu_runs(family: str) -> None:
    model = small_of(family)
    for phase, step in (("prefill", {"context": 12}), ("decode", {"context": 12, "batch": 2})):
        on_meta = inspector.trace(model, phase=phase, device="meta", **step)
        on_cpu = inspector.trace(model, phase=phase, device="cpu", **step)
        assert on_meta.served == on_cpu.served
        assert macs(on_meta) == macs(on_cpu)
        assert moved(on_meta) == moved(on_cpu)
        assert all(op.known for op in on_meta.ops)


@pytest.mark.once
@pytest.mark.parametrize("family", ["llama", "gemma2", "deepseek_v3", "bamba", "qwen3_next", "mamba2"])
def test_the_cache_that_grew_is_that_of_a_prompt(family: str) -> None:
    """The same bytes, layer by layer, as those that a prompt of the whole context leaves."""
    model = small_of(family)
    with torch.no_grad():
        outputs = model(torch.zeros(2, 12, dtype=torch.int64), use_cache=True)
    real = getattr(outputs, "past_key_values", None)
    if real is None:
        real = getattr(outputs, "cache", None)
    if real is None:
        real = outputs.cache_params
    names = ("keys", "values", "conv_states", "recurrent_states")
    held = [getattr(layer, name, None) for layer in real.layers for name in names]
    tensors = [tensor for tensor in tree_leaves(held) if isinstance(tensor, torch.Tensor)]
    served = inspector.trace(model, phase="decode", context=12, batch=2).served
    assert served is not None
    assert served.cache_bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_the_model_is_left_as_it_was() -> None:
    model = llama()
    before = copy.deepcopy(model.state_dict())
    inspector.trace(model, phase="decode", device="cpu", context=4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.training


def test_the_trace_is_read_back_with_its_step(tmp_path: Any) -> None:
    trace = count(llama(), "decode", context=10)
    assert Trace.load(trace.save(tmp_path / "step.json")) == trace


@pytest.mark.once
@pytest.mark.parametrize(
    ("phase", "step", "words"),
    [
        ("forward", {"context": 8}, "belongs to a prefill or a decode"),
        ("prefill", {"new_tokens": 2}, "makes no new tokens"),
        ("decode", {"batch": 0}, "is no number"),
        ("decode", {"kv_cache": "paged"}, "no cache is called"),
        ("prefill", {"kv_cache": "fp8"}, "computes on keys and values as they are"),
    ],
)
def test_numbers_that_fit_no_step_are_refused(phase: str, step: dict[str, Any], words: str) -> None:
    with pytest.raises(inspector.InspectError, match=words):
        Serving.of(phase, **step)


@pytest.mark.once
def test_what_keeps_no_cache_has_no_decode() -> None:
    with pytest.raises(inspector.InspectError, match="no language model that keeps a cache"):
        inspector.trace("resnet18", phase="decode")


@pytest.mark.once
def test_a_decode_takes_no_tokens_of_the_caller() -> None:
    with pytest.raises(inspector.InspectError, match="makes its own tokens"):
        inspector.trace(llama(), "input_ids=int64[1,4]", phase="decode")


@pytest.mark.once
def test_a_decode_is_a_step_of_no_other_method() -> None:
    with pytest.raises(inspector.InspectError, match="step of the forward, not of generate"):
        inspector.trace(llama(), phase="decode", call="generate")


def _in_fewer_bits(kind: str, **more: Any) -> Trace:
    try:
        return count(llama(), "decode", kv_cache=kind, **more)
    except inspector.InspectError as error:
        if "has no cache in" not in str(error):
            raise
        pytest.skip(f"this transformers, or a package that it needs, has none: {error}")


@pytest.mark.once
def test_a_cache_in_fp8_is_a_byte_a_number_and_a_scale_a_tensor() -> None:
    config = llama().config
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    numbers = 2 * layers * heads * config.head_dim  # keys and values of a token
    served = _in_fewer_bits("fp8", context=10, batch=3).served
    assert served is not None
    assert served.cache_bytes == 3 * 10 * numbers + 2 * layers * 4
    assert served.cache_bytes_per_token == numbers
    assert served.asked("decode")["kv_cache"] == "fp8"
    whole = count(llama(), "decode", context=10, batch=3)
    assert macs(_in_fewer_bits("fp8", context=10, batch=3)) == macs(whole)


@pytest.mark.once
@pytest.mark.parametrize(("kind", "bits"), [("int4", 4), ("int2", 2)])
def test_a_group_of_numbers_has_a_scale_and_a_shift(kind: str, bits: int) -> None:
    """quanto's groups are of 64 numbers of one channel."""
    config = llama().config
    numbers = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    trace = _in_fewer_bits(kind, context=128)
    served = trace.served
    assert served is not None
    assert served.cache_bytes == 128 * numbers * bits // 8 + 128 * numbers // 64 * (4 + 4)
    assert served.cache_bytes_per_token == numbers * bits // 8 + numbers // 64 * (4 + 4)
    assert all(op.known for op in trace.ops)


@pytest.mark.once
def test_a_cache_in_fp8_counts_on_meta_what_the_cpu_runs() -> None:
    on_meta = _in_fewer_bits("fp8", context=12, batch=2)
    on_cpu = _in_fewer_bits("fp8", context=12, batch=2, device="cpu")
    assert on_meta.served == on_cpu.served
    assert [op.name for op in on_meta.ops] == [op.name for op in on_cpu.ops]


@pytest.mark.once
def test_a_window_has_no_cache_in_fewer_bits() -> None:
    with pytest.raises(inspector.InspectError, match="has no cache in fp8"):
        count(small_of("gemma2"), "decode", context=12, kv_cache="fp8")
