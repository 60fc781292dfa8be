"""FlexAttention is one operator, counted as dense; what its block mask leaves stands beside it.

One head of width E over L queries and S keys takes L * S * E MACs for the scores and as many for the weighted
sum; the backward takes twice that. Pointwise: softmax 5 a score (its backward 4), and the scaling of q and k.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.profiling.views.totals import totals
from inspector.tracing.record import Op, Trace

flex = pytest.importorskip("torch.nn.attention.flex_attention")
BOTH = pytest.mark.parametrize("device", ["meta", "cpu"])


def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


class Attention(nn.Module):
    """1x128 tokens, 64 wide, by default 4 heads of 16: the example of the issue."""

    def __init__(self, kv_heads: int = 4, mask: Any = None, compiled: bool = False, **options: Any) -> None:
        super().__init__()
        self.sizes = [64, 16 * kv_heads, 16 * kv_heads]
        self.project = nn.Linear(64, sum(self.sizes), bias=False)
        self.mask, self.options = mask, options
        self.attend = torch.compile(flex.flex_attention) if compiled else flex.flex_attention

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        parts = self.project(x).split(self.sizes, -1)
        q, k, v = (part.view(len(x), length, -1, 16).transpose(1, 2) for part in parts)
        mask = None
        if self.mask is not None:
            mask = flex.create_block_mask(self.mask, None, None, length, length, device=x.device)
        result = self.attend(q, k, v, block_mask=mask, enable_gqa=True, **self.options)
        return result.transpose(1, 2).reshape(x.shape)


X = torch.randn(1, 128, 64)
PROJECTION = 128 * 64 * 192  # 1,572,864
SCORES = 2 * 128 * 128 * 64  # 2,097,152: four heads, scores and weighted sum


def attention(trace: Trace, phase: str = "forward") -> Op:
    (op,) = (op for op in trace.ops if op.name.startswith("higher_order.flex") and op.phase == phase)
    return op


@BOTH
@pytest.mark.parametrize("compiled", [False, True])
def test_the_example_of_the_issue(device: str, compiled: bool) -> None:
    trace = inspector.trace(Attention(compiled=compiled), X, device=device)
    sums = totals(trace)
    assert (sums["macs"], sums["unknown_ops"]) == (3_670_016, 0)
    assert sums["macs"] == PROJECTION + SCORES
    assert "causal_macs" not in sums
    op = attention(trace)
    assert op.pointwise_flops == 4 * 128 * 128 * 5 + 2 * 128 * 64
    # Read q, k and v, 128 * 64 floats each; written the result, and two statistics for each row (one in torch
    # 2.8), or none where torch keeps them empty.
    assert op.bytes_read == 3 * 128 * 64 * 4
    assert 0 <= op.bytes_written - 128 * 64 * 4 <= 2 * 4 * 128 * 4


@BOTH
def test_the_backward_takes_twice_the_forward(device: str) -> None:
    trace = inspector.trace(Attention(), X, phase="train", device=device)
    op = attention(trace, "backward")
    assert (op.module, op.macs) == ("", 2 * SCORES)
    assert op.pointwise_flops == 4 * 128 * 128 * 4 + 2 * 128 * 64
    # The projection's weight wants a gradient, its input does not.
    assert totals(trace)["macs"] == 2 * PROJECTION + 3 * SCORES


def test_both_devices_record_the_same() -> None:
    for phase in ("forward", "train"):
        model = Attention(mask=causal)
        meta, cpu = (inspector.trace(model, X, phase=phase, device=device) for device in ("meta", "cpu"))
        assert [op.name for op in meta.ops] == [op.name for op in cpu.ops]
        assert totals(meta) == totals(cpu)


@BOTH
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_a_causal_block_mask_leaves_what_a_causal_mask_leaves(device: str, phase: str) -> None:
    # Row i sees i + 1 of 128 keys: 128 * 129 / 2 = 8,256 of 16,384 scores.
    sums = totals(inspector.trace(Attention(mask=causal), X, phase=phase, device=device))
    left = SCORES * 8_256 // 16_384
    projection, attended = (1, 1) if phase == "forward" else (2, 3)
    assert sums["macs"] == projection * PROJECTION + attended * SCORES
    assert sums["causal_macs"] == projection * PROJECTION + attended * left


def test_a_sliding_window() -> None:
    # A window of 32: the first 32 rows see 1 to 32 keys (528), the other 96 see 32 (3,072): 3,600 scores.
    def window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key < 32)

    sums = totals(inspector.trace(Attention(mask=window), X))
    assert sums["causal_macs"] == PROJECTION + SCORES * 3_600 // 16_384


def test_the_mask_function_runs_once_a_score_that_it_looks_at() -> None:
    # `query >= key` looks at no head: 128 * 128; to apply it: one operation for each of 4 * 128 * 128 scores.
    masked, plain = (attention(inspector.trace(Attention(mask=mask), X)) for mask in (causal, None))
    assert masked.pointwise_flops - plain.pointwise_flops == 128 * 128 + 4 * 128 * 128


@BOTH
def test_grouped_heads_attend_as_often_with_a_smaller_projection(device: str) -> None:
    # 4 heads of queries, 2 of keys and values: 64 + 2 * 32 = 128 columns.
    for phase, projection, attended in (("forward", 1, 1), ("train", 2, 3)):
        sums = totals(inspector.trace(Attention(kv_heads=2), X, phase=phase, device=device))
        assert sums["macs"] == projection * 128 * 64 * 128 + attended * SCORES


@BOTH
def test_a_score_function_counts_its_operators(device: str) -> None:
    # 20 * tanh(score / 20): three for each of 4 * 128 * 128 scores. Backward: two products with 20, and
    # tanh's own g * (1 - y * y), 3.
    def softcap(score: Tensor, *_: Tensor) -> Tensor:
        return 20 * torch.tanh(score / 20)

    scores = 4 * 128 * 128
    with_cap, plain = (
        inspector.trace(Attention(score_mod=mod), X, phase="train", device=device) for mod in (softcap, None)
    )
    for phase, more in (("forward", 3), ("backward", 5)):
        capped, free = attention(with_cap, phase), attention(plain, phase)
        assert capped.pointwise_flops - free.pointwise_flops == more * scores
        assert capped.macs == free.macs


class Biased(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 8, 8))

    def forward(self, x: Tensor) -> Any:
        def bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + self.table[head, query, key]

        return flex.flex_attention(x, x, x, score_mod=bias)


@BOTH
def test_a_parameter_in_a_score_function_is_read_and_gets_its_gradient(device: str) -> None:
    x = torch.randn(2, 4, 8, 16)
    forward = inspector.trace(Biased(), x, device=device)
    assert not [f for f in inspector.profile(forward).findings if f.check == "unused"]
    assert [spec.shape for spec in attention(forward).inputs] == [(2, 4, 8, 16)] * 3 + [(4, 8, 8)]
    train = inspector.trace(Biased(), x, phase="train", device=device)
    assert totals(train)["unknown_ops"] == 0
    assert attention(train, "backward").outputs[-1].shape == (4, 8, 8)
    assert [storage.nbytes for storage in train.storages if storage.role == "gradient"] == [4 * 8 * 8 * 4]


def test_the_gradients_on_a_device_are_those_of_attention() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 8, 8))

        def forward(self, x: Tensor) -> Tensor:
            q, bias = x * 2, self.weight * 3
            fused = flex.flex_attention(q, q, q, score_mod=lambda s, b, h, i, j: s + bias[h, i, j])
            (ours,) = torch.autograd.grad(fused.sum(), self.weight, retain_graph=True)
            written = torch.softmax(q @ q.transpose(-2, -1) / 4 + bias, -1) @ q
            (theirs,) = torch.autograd.grad(written.sum(), self.weight, retain_graph=True)
            torch.testing.assert_close(fused, written, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
            return fused

    inspector.trace(Both(), torch.randn(2, 4, 8, 16), phase="train", device="cpu")


class Documents(nn.Module):
    def forward(self, x: Tensor, document: Tensor) -> Any:
        def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (document[batch, query] == document[batch, key]) & (query >= key)

        return flex.flex_attention(
            x, x, x, block_mask=flex.create_block_mask(same, 2, None, 8, 8, device=x.device)
        )


def test_a_mask_of_values_is_read_on_the_cpu_and_unknown_on_meta() -> None:
    # Two documents of 4: 10 causal scores each, 20 of 64. Dense 2 * 4 heads * 64 * 2 * 16 = 16,384.
    inputs = {"x": torch.randn(2, 4, 8, 16), "document": torch.tensor([[0] * 4 + [1] * 4] * 2)}
    cpu, meta = (inspector.trace(Documents(), inputs, device=device) for device in ("cpu", "meta"))
    assert (totals(cpu)["macs"], totals(cpu)["causal_macs"]) == (16_384, 5_120)
    assert totals(meta)["macs"] == 16_384
    assert "causal_macs" not in totals(meta)
    assert attention(meta).density is None
    assert any("mask depends on values" in note for note in meta.notes)


def test_a_mask_by_head() -> None:
    # |i - j| <= head on 8 x 8: 8, 22, 34 and 44 scores, 108 of 256.
    class Bands(nn.Module):
        def forward(self, x: Tensor) -> Any:
            mask = flex.create_block_mask(
                lambda b, h, i, j: (i - j).abs() <= h, None, 4, 8, 8, device=x.device
            )
            return flex.flex_attention(x, x, x, block_mask=mask)

    sums = totals(inspector.trace(Bands(), torch.randn(2, 4, 8, 16)))
    assert (sums["macs"], sums["causal_macs"]) == (16_384, 16_384 * 108 // 256)


def test_a_mask_made_beforehand_and_kept_by_the_model() -> None:
    class Kept(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.options = {"block_mask": flex.create_block_mask(causal, None, None, 128, 128, device="cpu")}

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (p.view(1, 128, 4, 16).transpose(1, 2) for p in self.project(x).split(self.sizes, -1))
            return self.attend(q, k, v, **self.options)

    sums = totals(inspector.trace(Kept(), X, phase="train"))
    assert sums["macs"] == 2 * PROJECTION + 3 * SCORES
    assert sums["causal_macs"] == 2 * PROJECTION + 3 * SCORES * 8_256 // 16_384


def test_torch_is_as_it_was_afterwards() -> None:
    before = dict(vars(flex))
    inspector.trace(Attention(), X)
    with pytest.raises(inspector.InspectError):
        inspector.trace(Attention(), torch.randn(1, 128, 63))
    assert {name: value for name, value in vars(flex).items() if before.get(name) is not value} == {}


def test_the_attention_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.LlamaConfig(
        vocab_size=100, intermediate_size=64, num_hidden_layers=2, max_position_embeddings=256, **sizes
    )
    config._attn_implementation = "flex_attention"
    model = transformers.LlamaForCausalLM(config)
    inputs = {"input_ids": torch.zeros(1, 128, dtype=torch.long), "use_cache": False}
    # A layer: q and o 64 * 64, k and v 64 * 32, three of 64 * 64 in the MLP, for 128 tokens, and the scores.
    dense = 128 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 64)
    head = 128 * 64 * 100
    for phase, times in (("forward", 1), ("train", 3)):
        sums = totals(inspector.trace(model, inputs, phase=phase))
        assert sums["macs"] == times * (2 * (dense + SCORES) + head)
        assert sums["causal_macs"] == times * (2 * (dense + SCORES * 8_256 // 16_384) + head)


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_with_a_devices_kernels_it_is_the_same_operator(dtype: str | None) -> None:
    # No S x S scores are kept: 4 * 128 * 128 floats would be 262,144 bytes.
    report = inspector.profile(Attention(mask=causal), X, roofline="h100", amp=dtype is None, dtype=dtype)
    assert report.metrics["macs"].value == PROJECTION + SCORES
    assert report.subject["device"] == "meta"
    memory = inspector.memory(Attention(), X, phase="train")
    assert memory.metrics["peak_activations"].value + memory.metrics["peak_temporaries"].value < 262_144
