"""`generate` of small language models: on meta as on the CPU, as far as it is asked to go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import inspector
from inspector.tracing.record import Op, Trace
from tests.language_models import FAMILIES, SMALL, llama, small_of

transformers = pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.once

PROMPT, NEW = 6, 3
INPUTS = {"input_ids": torch.full((2, PROMPT), 3), "max_new_tokens": NEW, "do_sample": False}
FULL_LENGTH = "generation goes to its full length"
FELL_BACK = "meta cannot run it"


def macs(trace: Trace) -> int:
    return sum(op.macs or 0 for op in trace.ops)


def passes(trace: Trace) -> int:
    """How often the forward ran: `generate` is one call of the root, and each token another."""
    return trace.modules[0].calls - 1


def outside_experts(trace: Trace) -> list[tuple[str, str, int, int]]:
    """What each operator of the model reads and writes. transformers runs the experts of a decode step by one
    kernel on the CPU (grouped_mm) and by another elsewhere (batched_mm); it moves the length of a window,
    one number, from the CPU to the device."""

    def counts(op: Op) -> bool:
        number = op.name == "aten._to_copy" and op.bytes_read == 8 and op.inputs[0].shape == ()
        moves = op.bytes_read + op.bytes_written > 0
        return op.module != "" and moves and not op.module.endswith("experts") and not number

    ops = filter(counts, trace.ops)
    return [(op.name, op.module, op.bytes_read, op.bytes_written) for op in ops]


@pytest.mark.parametrize("family", FAMILIES)
def test_meta_generates_what_the_cpu_generates(family: str) -> None:
    model = small_of(family)
    on_meta = inspector.trace(model, dict(INPUTS), call="generate")
    on_cpu = inspector.trace(model, dict(INPUTS), call="generate", device="cpu")
    assert (on_meta.device, passes(on_meta), passes(on_cpu)) == ("meta", NEW, NEW)
    assert macs(on_meta) == macs(on_cpu)
    assert all(op.known for op in (*on_meta.ops, *on_cpu.ops))
    assert outside_experts(on_meta) == outside_experts(on_cpu)


@pytest.mark.parametrize("family", FAMILIES)
def test_generating_is_the_prefill_and_a_decode_step_for_each_further_token(family: str) -> None:
    model = small_of(family)
    steps = [inspector.trace(model, phase="prefill", context=PROMPT, batch=2)]
    for context in range(PROMPT, PROMPT + NEW - 1):
        steps.append(inspector.trace(model, phase="decode", context=context, batch=2))
    assert macs(inspector.trace(model, dict(INPUTS), call="generate")) == sum(map(macs, steps))


class TestTheEnd:
    """Random weights come upon the token that ends a text at random: a count must not depend on it."""

    def ending(self) -> Any:
        """A llama whose every token ends the text."""
        model = llama()
        model.generation_config.eos_token_id = list(range(SMALL["vocab_size"]))
        return model

    @pytest.mark.parametrize("device", ["meta", "cpu"])
    def test_a_token_that_ends_a_text_does_not_end_the_count(self, device: str) -> None:
        trace = inspector.trace(self.ending(), dict(INPUTS), call="generate", device=device)
        assert passes(trace) == NEW
        assert any(FULL_LENGTH in note for note in trace.notes)

    def test_outside_an_inspection_it_ends_the_text(self) -> None:
        model = self.ending()
        inspector.trace(model, dict(INPUTS), call="generate")
        assert model.generate(**INPUTS).shape == (2, PROMPT + 1)

    def test_a_forward_says_nothing_of_it(self) -> None:
        assert not any(FULL_LENGTH in note for note in inspector.trace(llama()).notes)


@pytest.mark.parametrize(
    "more",
    [
        {"do_sample": True, "top_k": 5, "top_p": 0.9},
        {"repetition_penalty": 1.2},
        {"cache_implementation": "static"},
        {"use_cache": False},
        {"num_return_sequences": 2, "do_sample": True},
    ],
)
def test_ways_to_generate_that_meta_can_go(more: dict[str, Any]) -> None:
    model, counted = llama(), {}
    for device in ("meta", "cpu"):
        trace = inspector.trace(model, {**INPUTS, **more}, call="generate", device=device)
        counted[device] = macs(trace), passes(trace)
    assert counted["meta"] == counted["cpu"]


@pytest.mark.parametrize("call", ["forward", "generate"])
def test_padding_is_read_from_the_mask_that_is_given(call: str) -> None:
    # 2 rows of 6, of which the first has 4 tokens: 4 * 5 / 2 pairs of it and 6 * 7 / 2 of the other count.
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    inputs = {"input_ids": INPUTS["input_ids"], "attention_mask": mask}
    inputs |= {"max_new_tokens": 1, "do_sample": False} if call == "generate" else {}
    for device in ("meta", "cpu"):
        trace = inspector.trace(llama(), inputs, call=call, device=device)
        shares = [op.density for op in trace.ops if op.macs and op.group == "scaled_dot_product_attention"]
        assert shares == [pytest.approx((10 + 21) / 72)] * 4  # scores and values of two layers


def test_an_encoder_runs_once_and_its_decoder_for_each_token() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=96, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    model, counted = transformers.T5ForConditionalGeneration(config).eval(), {}
    for device in (None, "cpu"):
        trace = inspector.trace(model, dict(INPUTS), call="generate", device=device)
        counted[trace.device] = macs(trace)
        calls = {module.path: module.calls for module in trace.modules}
        assert (calls["encoder"], calls["decoder"]) == (1, NEW)
    assert counted["meta"] == counted["cpu"]


def test_where_values_decide_the_cpu_counts_and_that_is_said() -> None:
    # Which of the beams goes on is chosen by their scores, and with them when to stop.
    trace = inspector.trace(llama(), {**INPUTS, "num_beams": 2}, call="generate")
    assert trace.device == "cpu"
    assert any(FELL_BACK in note for note in trace.notes)
    assert passes(trace) == NEW


def test_a_published_model_generates_without_its_weights() -> None:
    # Llama-3.1-8B: 32 layers of q and o of 4096 x 4096, k and v of 4096 x 1024, three of 4096 x 14336; the
    # prompt of 128 tokens at once, then one that sees 129. The head has 128,256 rows.
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    attention = 32 * 2 * 4096 * (128 * 128 + 129)
    model = "hf:benchmarks/llama-3.1-8b.json"
    trace = inspector.trace(model, {"max_new_tokens": 2, "do_sample": False}, call="generate")
    assert macs(trace) == 32 * layer * 129 + attention + 2 * 4096 * 128256
