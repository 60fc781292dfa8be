"""Attention that a model writes out by hand: what its masks leave of the scores.

Each attention: one head of width 16 over 8 queries and 8 keys: two products of 8 * 8 * 16 = 1,024 MACs,
32 MACs a score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import inspector
from inspector.profiling.views.totals import totals
from inspector.tracing.record import Trace

BOTH = pytest.mark.parametrize("device", ["meta", "cpu"])
X = torch.randn(1, 8, 16)
DENSE, SCORE = 2_048, 32
CAUSAL = 36  # 8 * 9 / 2
NO = float("-inf")


class Attend(nn.Module):
    def __init__(self, scores: Callable[..., Tensor], times: int = 1) -> None:
        super().__init__()
        self.scores, self.times = scores, times
        self.bias = nn.Parameter(torch.zeros(8, 8))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        for _ in range(self.times):
            scores = x @ x.transpose(-2, -1) / 4
            scores = self.scores(self, scores, *more)
            x = self.dropout(scores.softmax(-1)) @ x
        return x


def left(trace: Trace) -> Any:
    """The scores that masks leave, of all attentions; None where no figure is given."""
    sums = totals(trace)
    return sums["causal_macs"] / SCORE if "causal_macs" in sums else None


def lower(scores: Tensor) -> Tensor:
    return torch.ones(8, 8, dtype=torch.bool, device=scores.device).tril()


def negative(scores: Tensor) -> Tensor:
    return scores.new_full((8, 8), torch.finfo(scores.dtype).min).triu(1)


def window(scores: Tensor) -> Tensor:
    place = torch.arange(8, device=scores.device)
    return place[:, None] - place[None] < 3


def in_place(model: Any, scores: Tensor) -> Tensor:
    scores.masked_fill_(~lower(scores), NO)
    return scores.add_(1.0)


def with_a_sink(model: Any, scores: Tensor) -> Tensor:
    """As gpt_oss: one more column that takes weight and is then dropped."""
    scores = torch.cat([scores + negative(scores), scores.new_zeros(1, 8, 1)], dim=-1)
    return scores - scores.max(dim=-1, keepdim=True).values


MASKS = {
    "added": lambda model, s: s + negative(s),
    "added from the left": lambda model, s: negative(s) + s,
    "filled": lambda model, s: s.masked_fill(~lower(s), NO),
    "chosen": lambda model, s: torch.where(lower(s), s, torch.finfo(s.dtype).min),
    "chosen the other way": lambda model, s: torch.where(~lower(s), torch.full_like(s, NO), s),
    "in place": in_place,
    "under a cap": lambda model, s: (s / 50).tanh() * 50 + negative(s),
    "in another dtype": lambda model, s: (s.double() + negative(s.double())).float(),
    "over heads": lambda model, s: (s.view(1, 1, 8, 8) + negative(s)[None, None]).view(1, 8, 8),
    "beside a bias": lambda model, s: s + (model.bias + negative(s)),
    "after a bias": lambda model, s: (s + model.bias).masked_fill(~lower(s), NO),
}


@BOTH
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_a_causal_mask_is_seen_however_it_is_applied(mask: Any, device: str) -> None:
    trace = inspector.trace(Attend(mask), X, device=device)
    assert totals(trace)["macs"] == DENSE
    assert left(trace) == CAUSAL


@BOTH
def test_two_masks_leave_what_both_leave(device: str) -> None:
    # Row i sees the last min(i, 3) keys: 1 + 2 + 6 * 3 = 21.
    def both(model: Any, scores: Tensor) -> Tensor:
        return (scores + negative(scores)).masked_fill(~window(scores), NO)

    assert left(inspector.trace(Attend(both), X, device=device)) == 21


@BOTH
def test_every_layer_is_masked(device: str) -> None:
    assert left(inspector.trace(Attend(MASKS["added"], times=3), X, device=device)) == 3 * CAUSAL


@BOTH
@pytest.mark.parametrize("again", [False, True])
def test_the_gradients_are_masked_as_the_products(device: str, again: bool) -> None:
    # Each product has two gradients of its own size; a checkpoint computes the first once more
    # (nothing in the backward needs the second).
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = Attend(MASKS["added"])

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.attend, x, use_reentrant=False) if again else self.attend(x)

    sums = totals(inspector.trace(Layer(), X.clone().requires_grad_(), phase="train", device=device))
    times = 3.5 if again else 3
    assert (sums["macs"], sums["causal_macs"]) == (times * DENSE, times * CAUSAL * SCORE)


@BOTH
def test_a_sink_beside_the_scores(device: str) -> None:
    class Sunk(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weights = with_a_sink(self, x @ x.transpose(-2, -1)).softmax(-1)
            return weights[..., :-1] @ x

    assert left(inspector.trace(Sunk(), X, device=device)) == CAUSAL


@BOTH
def test_multi_head_attention_that_returns_its_weights(device: str) -> None:
    # Two heads of 8: each product of 2 * 8 * 8 * 8 = 1,024 MACs; projections 3 * 8 * 16 * 16 + 8 * 16 * 16.
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, attn_mask=~lower(x), need_weights=True)[0]

    sums = totals(inspector.trace(Weighted(), X, device=device))
    assert sums["macs"] == DENSE + 8_192
    assert sums["causal_macs"] == CAUSAL * SCORE + 8_192


@BOTH
@pytest.mark.parametrize(
    "scores",
    [
        lambda model, s: s,
        lambda model, s: s + model.bias,
        lambda model, s: s + torch.ones(8, 8, device=s.device),
        lambda model, s: s.masked_fill(torch.zeros(8, 8, dtype=torch.bool, device=s.device), NO),
    ],
)
def test_no_mask_leaves_all(scores: Any, device: str) -> None:
    trace = inspector.trace(Attend(scores), X, device=device)
    assert {op.density for op in trace.ops if op.macs} == {1.0}
    assert (left(trace), trace.notes) == (None, ())


@BOTH
def test_a_mask_that_an_input_makes_is_not_known(device: str) -> None:
    def padded(model: Any, scores: Tensor, keep: Tensor) -> Tensor:
        return scores.masked_fill(keep[:, None] == 0, NO)

    trace = inspector.trace(Attend(padded), [X, torch.ones(1, 8)], device=device)
    assert {op.density for op in trace.ops if op.macs} == {None}


@BOTH
@pytest.mark.parametrize(
    "forward",
    [
        lambda x: (x @ x.transpose(-2, -1) + negative(x[..., :8])).sigmoid() @ x,  # no softmax
        lambda x: (x @ x.transpose(-2, -1)).softmax(-1) @ x + negative(x[..., :8]).sum(),
        lambda x: x @ (x.transpose(-2, -1) @ x + negative(x[..., :8]).sum()).softmax(-1),  # from the right
    ],
)
def test_what_only_looks_like_attention_is_dense(forward: Any, device: str) -> None:
    class Other(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return forward(x)

    assert {op.density for op in inspector.trace(Other(), X, device=device).ops if op.macs} == {1.0}
