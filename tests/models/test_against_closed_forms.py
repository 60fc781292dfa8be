"""Our trace against closed forms that others publish for language models: their figures, and each difference
by its arithmetic.

Dimensions are those of each model's config.json on the hub. Figures of LLM-Viewer are what its formulas give
(hahnyuan/LLM-Viewer, model_analyzer.py and configs/Llama.py of 30 July 2024) for an example of its README;
those of transformer-roofline-analyzer are its own expected outputs (Jench2103/transformer-roofline-analyzer,
tests/end-to-end/llama_hf, 31 May 2026); those of llm-analysis are its published summaries
(cli99/llm-analysis, examples/llama/outputs_infer_ideal, 13 November 2024). hf-mem's is in
test_serving_published.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import inspector
from inspector.tracing.record import Op, Trace

transformers = pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.once

GIB, MIB = 2**30, 2**20


class Llama(NamedTuple):
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    words: int
    dtype: str = "bfloat16"


MODELS = {
    "LLaMA-7B": Llama(4096, 11008, 32, 32, 32, 32000, "float16"),  # and Llama-2-7B
    "LLaMA-13B": Llama(5120, 13824, 40, 40, 40, 32000, "float16"),  # and Llama-2-13B
    "LLaMA-65B": Llama(8192, 22016, 80, 64, 64, 32000, "float16"),
    "Llama-3.1-8B": Llama(4096, 14336, 32, 32, 8, 128256),
    "Llama-3.1-70B": Llama(8192, 28672, 80, 64, 8, 128256),
    "Llama-3.1-405B": Llama(16384, 53248, 126, 128, 8, 128256),
}


def configuration(model: Llama, folder: Path) -> str:
    """Its spec."""
    fields = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "dtype": model.dtype,
        "hidden_size": model.width, "intermediate_size": model.inner, "vocab_size": model.words,
        "num_hidden_layers": model.layers, "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads, "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(fields))
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trace]:
    """A step of one sequence."""

    def run(name: str, phase: str, context: int, **model_args: Any) -> Trace:
        spec = configuration(MODELS[name], tmp_path_factory.mktemp("model"))
        return inspector.trace(spec, phase=phase, context=context, model_args=model_args)

    return run


def flops(ops: list[Op]) -> int:
    return sum(2 * (op.macs or 0) + (op.pointwise_flops or 0) for op in ops)


def moved(ops: list[Op]) -> int:
    return sum(op.bytes_read + op.bytes_written for op in ops)


def products(trace: Trace) -> list[Op]:
    return [op for op in trace.ops if op.macs]


def params(trace: Trace) -> int:
    return sum(entry.numel for entry in trace.state if entry.kind == "parameter")


@pytest.fixture(scope="module", params=["prefill", "decode"])
def layer(request: pytest.FixtureRequest, step: Callable[..., Trace]) -> tuple[int, int, dict[str, list[Op]]]:
    """Of Llama-2-7B: 0 for a prefill and 1 for a decode, the tokens that it computes, and the operators of
    the first layer by module."""
    which = ("prefill", "decode").index(request.param)
    trace = step("LLaMA-7B", request.param, 2048 - which, attn_implementation="eager")
    ops: dict[str, list[Op]] = {}
    for op in trace.ops:
        path = op.module.removeprefix("model.layers.0")
        if path != op.module:
            ops.setdefault(path.removeprefix("."), []).append(op)
    return which, (2048, 1)[which], ops


class TestViewer:
    """LLM-Viewer: Llama-2-7b in half precision, one sequence, 2,048 tokens. A decode attends to 2,048, the
    new one among them. It unfolds attention, as transformers does with attn_implementation="eager"."""

    LINEAR = {
        # Module: operations and bytes of a prefill, then of a decode.
        "self_attn.q_proj": ((68_719_476_736, 67_108_864), (33_554_432, 33_570_816)),
        "self_attn.k_proj": ((68_719_476_736, 67_108_864), (33_554_432, 33_570_816)),
        "self_attn.v_proj": ((68_719_476_736, 67_108_864), (33_554_432, 33_570_816)),
        "self_attn.o_proj": ((68_719_476_736, 67_108_864), (33_554_432, 33_570_816)),
        "mlp.gate_proj": ((184_683_593_728, 152_043_520), (90_177_536, 90_207_744)),
        "mlp.up_proj": ((184_683_593_728, 152_043_520), (90_177_536, 90_207_744)),
        "mlp.down_proj": ((184_683_593_728, 152_043_520), (90_177_536, 90_207_744)),
    }
    MATMUL = ((34_359_738_368, 301_989_888), (16_777_216, 16_916_480))  # both, of queries and of values
    SOFTMAX = ((671_088_640, 536_870_912), (327_680, 262_144))
    NORM = ((58_720_256, 33_554_432), (28_672, 16_384))
    ADD = ((8_388_608, 33_554_432), (4_096, 16_384))
    ACTIVATION = ((16_777_216, 50_331_648), (8_192, 24_576))
    HEAD = 131_072_000

    def test_linear_layers_are_the_same(self, layer: Any) -> None:
        which, _, ops = layer
        for name, figures in self.LINEAR.items():
            assert (flops(ops[name]), moved(ops[name])) == figures[which], name

    def test_products_of_attention_are_the_same(self, layer: Any) -> None:
        which, _, ops = layer
        pair = [op for op in ops["self_attn"] if op.macs]
        assert [(flops([op]), moved([op])) for op in pair] == [self.MATMUL[which]] * 2

    def test_softmax_costs_the_same_and_moves_four_bytes_a_number(self, layer: Any) -> None:
        # Theirs reads and writes two bytes. transformers widens to float32 before (2 + 4 bytes) and narrows
        # again after (4 + 2); the softmax itself reads and writes 4.
        which, _, ops = layer
        operations, nbytes = self.SOFTMAX[which]
        place = next(i for i, op in enumerate(ops["self_attn"]) if op.name == "aten._softmax")
        around = ops["self_attn"][place - 1 : place + 2]
        assert flops(around[1:2]) == operations
        assert [moved([op]) for op in around] == [nbytes * 6 // 4, nbytes * 8 // 4, nbytes * 6 // 4]

    def test_a_norm_is_four_operations_a_number_not_seven(self, layer: Any) -> None:
        # Theirs is a LayerNorm: sum, subtract, square, sum, divide, scale, shift. An RMSNorm squares, sums,
        # and scales twice; then of each token it adds epsilon and takes a root.
        which, tokens, ops = layer
        assert self.NORM[which][0] == 7 * 4096 * tokens
        assert flops(ops["input_layernorm"]) == (4 * 4096 + 2) * tokens

    def test_a_residual_reads_both_of_its_terms(self, layer: Any) -> None:
        which, tokens, ops = layer
        operations, nbytes = self.ADD[which]
        residual = [op for op in ops[""] if op.name == "aten.add"]
        assert [flops([op]) for op in residual] == [operations] * 2
        assert [moved([op]) for op in residual] == [nbytes + 2 * 4096 * tokens] * 2

    def test_an_activation_is_of_the_inner_width(self, layer: Any) -> None:
        # Theirs: two operations for each of 4,096. A SiLU is x / (1 + exp(-x)), 5, and a product, of 11,008.
        which, tokens, ops = layer
        assert self.ACTIVATION[which][0] == 2 * 4096 * tokens
        assert flops(ops["mlp.act_fn"]) + flops(ops["mlp"]) == 6 * 11008 * tokens

    def test_the_head_multiplies_and_adds(self, step: Callable[..., Trace]) -> None:
        head = [op for op in step("LLaMA-7B", "decode", 2047).ops if op.module == "lm_head"]
        assert flops(head) == 2 * self.HEAD


class TestRooflineAnalyzer:
    """transformer-roofline-analyzer: one token after 511. Its blocks have no head and no last norm."""

    PUBLISHED = {
        # GFLOP, GiB of weights, MiB of cache, of embedding
        "LLaMA-13B": (25.80, 23.63, 400.0, 312.5),
        "Llama-3.1-8B": (14.13, 13.00, 64.0, 1002.0),
        "Llama-3.1-70B": (137.67, 127.50, 160.0, 1.96 * 1024),
        "Llama-3.1-405B": (805.58, 748.13, 252.0, 3.91 * 1024),
    }
    OF_8B = {
        # MFLOP of a layer
        ("q_proj", "k_proj", "v_proj"): 50.33, ("o_proj",): 33.55, ("gate_proj", "up_proj"): 234.85,
        ("down_proj",): 117.44,
    }  # fmt: skip

    def test_a_linear_layer_has_one_addition_less_for_each_output(self, step: Callable[..., Trace]) -> None:
        ops = [op for op in products(step("Llama-3.1-8B", "decode", 511)) if "layers.0." in op.module]
        for names, published in self.OF_8B.items():
            mine = [op for op in ops if op.module.rpartition(".")[2] in names]
            outputs = sum(spec.numel for op in mine for spec in op.outputs)
            assert flops(mine) - outputs == pytest.approx(published * 1e6, abs=0.005e6)

    def test_its_product_with_the_values_is_that_of_the_heads_that_are_kept(
        self, step: Callable[..., Trace]
    ) -> None:
        # 4 query heads share one head of keys and values. Both products are of all 32 heads: 2 * 4096 * 512.
        # Theirs is 512 * (2 * 4096 - 1) of the queries, but 1024 * (2 * 512 - 1) of the values: a quarter.
        trace = step("Llama-3.1-8B", "decode", 511)
        pair = [op for op in products(trace) if op.module == "model.layers.0.self_attn"]
        queries, values = (flops([op]) for op in pair)
        assert queries == values == 2 * 4096 * 512
        theirs = (queries - 512) + (values // 4 - 1024)
        assert theirs == pytest.approx(5.24e6, abs=0.005e6)

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_the_whole(self, name: str, step: Callable[..., Trace]) -> None:
        trace, model = step(name, "decode", 511), MODELS[name]
        width, kept = model.width, model.width // model.heads * model.kv_heads
        linear = [op for op in products(trace) if op.module.endswith("proj")]
        attention = flops([op for op in products(trace) if op.module.endswith("self_attn")]) // model.layers
        scores = attention // 2 - 512 + attention // 2 * kept // width - kept
        # Two norms of 4 * width + 2, rotations of 3 a channel, two residuals, a SiLU of 4 and a product.
        others = 2 * (4 * width + 2) + 3 * (width + kept) + 2 * width + 5 * model.inner + 1
        theirs = flops(linear) - sum(spec.numel for op in linear for spec in op.outputs)
        theirs += model.layers * (scores + others)
        gflop, weights, cache, embedding = self.PUBLISHED[name]
        assert theirs == pytest.approx(gflop * 1e9, abs=0.005e9)
        # Its norms have one number more than their width: epsilon.
        blocks = params(trace) - 2 * model.words * width - width + 2 * model.layers
        assert 2 * blocks == pytest.approx(weights * GIB, abs=0.005 * GIB)
        assert trace.served is not None
        assert trace.served.cache_bytes + trace.served.cache_bytes_per_token == cache * MIB
        assert 2 * model.words * width == pytest.approx(embedding * MIB, abs=0.005 * GIB)


class TestLlmAnalysis:
    """llm-analysis: prompts of 512 tokens, then 32 more, in half precision. Its feed-forward networks are two
    matrices of 4 times the width, which is as much as LLaMA's three of 8/3 before those are rounded up."""

    PUBLISHED = {
        # FLOPs of the prefill, of a decode step; bytes of the weights and of the cache
        "LLaMA-7B": (6_868_726_448_128, 13_147_570_176, 13_147_045_888, 285_212_672),
        "LLaMA-13B": (13_267_422_412_800, 25_494_323_200, 25_493_504_000, 445_644_800),
        "LLaMA-65B": (
            66_926_327_889_920,
            129_375_928_320,
            2 * 64_686_653_440,
            2 * 713_031_680,
        ),  # of two GPUs
    }

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_the_whole(self, name: str, step: Callable[..., Trace]) -> None:
        model, (prefill, decode, weights, cache) = MODELS[name], self.PUBLISHED[name]
        trace = step(name, "prefill", 512)
        rounded_up = model.layers * model.width * (3 * model.inner - 8 * model.width)
        # A prefill of theirs has logits for all tokens.
        logits = 2 * model.words * model.width * 511
        assert flops(products(trace)) - 2 * 512 * rounded_up + logits == prefill
        # A decode step of theirs attends to its own token alone: 511 more in ours.
        later = step(name, "decode", 511)
        attention = 4 * model.width * model.layers
        assert flops(products(later)) - 2 * rounded_up - 511 * attention == decode
        # Theirs has one table of words in place of two, and no norms.
        norms = model.width * (2 * model.layers + 1)
        assert 2 * (params(trace) - rounded_up - model.words * model.width - norms) == weights
        assert later.served is not None
        assert later.served.cache_bytes_per_token * (512 + 32) == cache

    def test_the_least_time_of_a_decode_step(self, tmp_path: Path, step: Callable[..., Trace]) -> None:
        # 6.7307 ms on an A100 SXM with 2,039 GB/s. Theirs reads the cache of all 544 tokens twice, ours that
        # of 512 once; ours reads the part of each matrix that rounding up adds. Both read one table of words:
        # theirs that of the input, ours that of the output. What is left, 0.15%, are our activations.
        model = MODELS["LLaMA-7B"]
        trace = step("LLaMA-7B", "decode", 512)
        assert trace.served is not None
        cache = trace.served.cache_bytes_per_token
        rounded_up = 2 * model.layers * model.width * (3 * model.inner - 8 * model.width)
        report = inspector.llm(configuration(model, tmp_path), gpu="a100 sxm 80gb", context=512, batch=[1])
        ours = 1 / report.to_frame("points")["tokens_per_second"][0]
        assert ours + (2 * 544 * cache - 512 * cache - rounded_up) / 2039e9 == pytest.approx(
            0.006730704805, rel=0.002
        )
