"""What a mask that the model makes leaves of the scores: read where it has values, else worked out.

Each attention: one head of width 16 over 8 queries and 8 keys, 2 * 8 * 8 * 16 = 2,048 MACs, 32 a score.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import inspector
from inspector.profiling.views.totals import totals
from inspector.tracing.record import Trace

BOTH = pytest.mark.parametrize("device", ["meta", "cpu"])
X = torch.randn(1, 1, 8, 16)
DENSE, SCORE = 2_048, 32
CAUSAL = 36  # 8 * 9 / 2


class Attend(nn.Module):
    """Attention under masks that functions of the input make, one after the other."""

    def __init__(self, *masks: Callable[..., Any]) -> None:
        super().__init__()
        self.masks = masks
        self.bias = nn.Parameter(torch.zeros(8, 8))

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        for mask in self.masks:
            x = F.scaled_dot_product_attention(x, x, x, mask(self, x, *more))
        return x


def left(trace: Trace) -> Any:
    """The scores that masks leave, of all attentions."""
    sums = totals(trace)
    return sums["causal_macs"] // SCORE if "causal_macs" in sums else None


def ones(model: Any, x: Tensor) -> Tensor:
    return torch.ones(8, 8, dtype=torch.bool, device=x.device)


def lower(model: Any, x: Tensor) -> Tensor:
    return ones(model, x).tril()


def window(model: Any, x: Tensor) -> Tensor:
    place = torch.arange(8, device=x.device)
    return (place[:, None] >= place[None]) & (place[:, None] - place[None] < 3)


def additive(model: Any, x: Tensor) -> Tensor:
    mask = x.new_full((8, 8), torch.finfo(x.dtype).min)
    return torch.triu(mask, diagonal=1)


def infinite(model: Any, x: Tensor) -> Tensor:
    return torch.zeros(8, 8, device=x.device).masked_fill_(~lower(model, x), float("-inf"))


def in_place(model: Any, x: Tensor) -> Tensor:
    mask = torch.zeros(8, 8, dtype=torch.bool, device=x.device)
    mask[:4, :4] = True
    mask[4:].logical_not_()
    return mask


def through_views(model: Any, x: Tensor) -> Tensor:
    whole = torch.ones(16, 16, device=x.device).tril()
    return whole.t()[8:, 8:].t().bool()[None, None].expand(1, 1, 8, 8)


@BOTH
@pytest.mark.parametrize(
    ("mask", "scores"),
    [
        (lower, CAUSAL),
        (window, 1 + 2 + 6 * 3),
        (additive, CAUSAL),
        (infinite, CAUSAL),
        (in_place, 4 * 4 + 4 * 8),
        (through_views, CAUSAL),
    ],
)
def test_a_mask_of_sizes_alone_is_known_on_every_device(mask: Any, scores: int, device: str) -> None:
    trace = inspector.trace(Attend(mask), X, device=device)
    assert totals(trace)["macs"] == DENSE
    assert left(trace) == scores
    assert trace.notes == ()


@BOTH
def test_a_mask_that_leaves_all_is_dense(device: str) -> None:
    trace = inspector.trace(Attend(ones), X, device=device)
    assert {op.density for op in trace.ops} == {1.0}
    assert left(trace) is None


@BOTH
def test_the_backward_is_masked_as_the_forward(device: str) -> None:
    sums = totals(inspector.trace(Attend(lower), X.clone().requires_grad_(), phase="train", device=device))
    assert (sums["macs"], sums["causal_macs"]) == (3 * DENSE, 3 * CAUSAL * SCORE)


@BOTH
def test_layers_that_share_a_mask_and_one_that_changes_it(device: str) -> None:
    # Twice causal; then every key but the first is hidden: 8 scores.
    class Layers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = lower(self, x)
            x = F.scaled_dot_product_attention(x, x, x, mask)
            x = F.scaled_dot_product_attention(x, x, x, mask)
            mask[:, 1:] = False
            return F.scaled_dot_product_attention(x, x, x, mask)

    assert left(inspector.trace(Layers(), X, device=device)) == 2 * CAUSAL + 8


@BOTH
@pytest.mark.parametrize("mask", [lambda model, x: model.bias, lambda model, x: model.bias.sin() * x.mean()])
def test_a_learned_bias_hides_nothing(mask: Any, device: str) -> None:
    trace = inspector.trace(Attend(mask), X, device=device)
    assert {op.density for op in trace.ops if op.macs} == {1.0}


@BOTH
def test_a_mask_that_was_added_to_a_bias(device: str) -> None:
    trace = inspector.trace(Attend(lambda model, x: model.bias + additive(model, x)), X, device=device)
    assert left(trace) == CAUSAL


@pytest.mark.parametrize(
    "unknown",
    [
        lambda model, x: model.bias > 0,
        lambda model, x: torch.where(model.bias > 0, 0.0, float("-inf")),
        lambda model, x: x[0, 0, :, :8] > 0,
        lambda model, x: torch.rand(8, 8, device=x.device) > 0.5,
        lambda model, x: lower(model, x) & (x[0, 0, :, :8] > 0),
    ],
)
def test_one_unknown_mask_leaves_no_number_that_looks_like_a_causal_one(unknown: Any) -> None:
    trace = inspector.trace(Attend(lower, unknown), X)
    assert trace.device == "meta"
    assert left(trace) is None
    (note,) = trace.notes
    assert "masks depend on values" in note


def test_a_mask_that_the_caller_gives_is_read_on_meta_too() -> None:
    inputs = (X, torch.ones(8, 8).tril().bool())
    model = Attend(lambda model, x, mask: mask)
    assert left(inspector.trace(model, inputs, device="cpu")) == CAUSAL
    assert left(inspector.trace(model, inputs, device="meta")) == CAUSAL


def test_a_mask_of_floats_that_the_caller_gives_is_read_on_the_cpu_alone() -> None:
    inputs = (X, torch.zeros(8, 8).masked_fill(torch.ones(8, 8).triu(1).bool(), float("-inf")))
    model = Attend(lambda model, x, mask: mask)
    assert left(inspector.trace(model, inputs, device="cpu")) == CAUSAL
    assert left(inspector.trace(model, inputs)) is None


SIZES = {
    "vocab_size": 100, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 256,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 32}
ATTENTION = 2 * 128 * 128 * 64  # one layer: 4 heads of 16
FULL = 8_256 / 16_384  # 128 * 129 / 2
SLIDING = 3_600 / 16_384  # the first 32 rows see 1 to 32 keys, the other 96 see 32
LOCAL = 3_952 / 16_384  # 16 keys to either side: 128 * 33, less 16 * 17 at the two ends


@BOTH
@pytest.mark.parametrize(
    ("config", "shares"),
    [
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], **GROUPED}, (SLIDING, SLIDING)),
        (
            {
                "model_type": "gemma3_text",
                "architectures": ["Gemma3ForCausalLM"],
                "layer_types": ["sliding_attention", "full_attention"],
                **GROUPED,
            },
            (SLIDING, FULL),
        ),
        (
            {
                "model_type": "modernbert",
                "architectures": ["ModernBertForMaskedLM"],
                "local_attention": 32,
                "global_attn_every_n_layers": 2,
                **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), 0),
                **dict.fromkeys(("eos_token_id", "sep_token_id"), 1),
                **SIZES,
            },
            (1.0, LOCAL),
        ),
        (
            {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_local_experts": 2,
             "num_experts_per_tok": 1, "layer_types": ["sliding_attention", "full_attention"], **GROUPED},
            (SLIDING, FULL),
        ),
        (
            {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "attn_implementation": "eager",
             "layer_types": ["sliding_attention", "full_attention"], **GROUPED},
            (SLIDING, FULL),
        ),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "attn_implementation": "eager",
          **GROUPED}, (SLIDING, SLIDING)),
        ({"model_type": "bloom", "architectures": ["BloomForCausalLM"], "vocab_size": 100, "hidden_size": 64,
          "n_layer": 2, "n_head": 4}, (FULL, FULL)),
    ],
    ids=["mistral", "gemma3", "modernbert", "gpt_oss", "gemma2", "mistral, written out", "bloom"],
)  # fmt: skip
def test_masks_of_transformers(
    config: dict[str, Any], shares: tuple[float, float], device: str, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    chosen = {key: config[key] for key in ("attn_implementation",) if key in config}
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in chosen}))
    trace = inspector.trace(f"hf:{tmp_path}", "input_ids=int64[1,128]", device=device, model_args=chosen)
    sums = totals(trace)
    saved = sum(ATTENTION * (1 - share) for share in shares)
    assert sums["macs"] - sums["causal_macs"] == saved
