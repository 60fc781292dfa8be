"""Sequence parallelism, against what can be worked out with a pencil; on real processes in the truth test."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.models import as_recipe
from inspector.models.inputs import as_inputs
from inspector.scaling.layout import Layout
from inspector.scaling.simulate import Rank, simulate_rank
from inspector.scaling.step import Question
from inspector.scaling.summary import held
from inspector.tracing.capture.kernels import Kernels

WIDTH, WORDS, TOKENS, LAYERS = 16, 32, 8, 3
PLAN = {
    "embed": "embedding_rowwise", "layers.*.first.up": "colwise", "layers.*.first.down": "rowwise",
    "layers.*.second.up": "colwise", "layers.*.second.down": "rowwise", "head": "colwise_rep",
}  # fmt: skip


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(hidden)))


class Layer(nn.Module):
    """Two pairs of products, each behind a norm and beside the residual: a transformer without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Pair(), Pair()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(hidden=self.before(x))
        return x + self.second(self.between(x))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Scaled(Tower):
    """Multiplies what is split by a module that is no norm."""

    def __init__(self) -> None:
        super().__init__()
        self.mixes = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mixes(self.embed(ids)))


def rank_of(
    kind: type[nn.Module] = Tower, tokens: int = TOKENS, plan: dict[str, str] | None = None, **words: Any
) -> Rank:
    with torch.device("meta"):
        model = kind()
    question = Question(as_recipe(model), as_inputs([f"int64[2,{tokens}]"]), "sgd", Kernels("cuda"))
    layout = Layout.of("tp=2", "fsdp", plan=PLAN if plan is None else plan, **words)
    return simulate_rank(question, layout, 0)


def sums(rank: Rank) -> tuple[Counter[str], Counter[str]]:
    """Calls and bytes of each kind, outside the optimizer."""
    calls: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for one in rank.collectives:
        if one.phase != "optimizer":
            calls[one.kind] += 1
            nbytes[one.kind] += one.nbytes
    return calls, nbytes


def test_gathers_and_scatters_take_the_place_of_all_reduces() -> None:
    # Korthikanti et al. (arXiv 2205.05198), section 4.2.2: in each layer two all-gathers and two
    # reduce-scatters forward, and as many backward. The embedding scatters forward and gathers backward, the
    # head the other way round, and it gathers its words
    calls, nbytes = sums(rank_of(sequence=True))
    assert calls == {"all-gather": 4 * LAYERS + 3, "reduce-scatter": 4 * LAYERS + 2}
    hidden, logits = 2 * TOKENS * WIDTH * 4, 2 * TOKENS * WORDS * 4
    assert nbytes["reduce-scatter"] == (4 * LAYERS + 2) * hidden
    assert nbytes["all-gather"] == (4 * LAYERS + 2) * hidden + logits
    # where an all-reduce sends twice what one of these does: without a split, two a layer each way
    calls, nbytes = sums(rank_of())
    assert calls["all-reduce"] == 4 * LAYERS + 2
    assert nbytes["all-reduce"] == (4 * LAYERS + 2) * hidden


def test_the_norms_are_whole_and_the_products_split() -> None:
    # 4 products of 2 x 16 x 16 a layer, the embedding and the head: half; 4 vectors of two norms: whole
    split = LAYERS * 4 * 2 * WIDTH * WIDTH + 2 * WORDS * WIDTH
    assert held(rank_of(sequence=True).trace)["parameters"] == 4 * (split // 2 + LAYERS * 4 * WIDTH)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"tokens": 7}, "a sequence of 7 does not divide by tp=2"),
        (
            {"kind": Scaled, "plan": {"embed": "embedding_rowwise", "head": "colwise_rep"}},
            "layers.0.first.up is no norm",
        ),
        ({"plan": {name: style for name, style in PLAN.items() if name != "embed"}}, "splits no embedding"),
        (
            {"plan": {name: style for name, style in PLAN.items() if name != "layers.*.first.down"}},
            "layers.0.first has columns of the plan, but no rows",
        ),
        ({"plan": {**PLAN, "embed": "colwise"}}, "'colwise' of embed has no form"),
        ({"plan": {**PLAN, "layers.*.first.down": "rowwise_rep"}}, "'rowwise_rep' of layers.0.first.down"),
    ],
)
def test_a_model_that_cannot_be_split_along_the_sequence_is_refused(
    words: dict[str, Any], message: str
) -> None:
    with pytest.raises(inspector.InspectError, match=message) as caught:
        rank_of(sequence=True, **words)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("mesh", "message"), [("dp=2", "splits over tp"), ("pp=2,tp=2", "beside a pipeline is not simulated")]
)
def test_a_mesh_without_a_sequence_to_split_is_refused(mesh: str, message: str) -> None:
    words = Layout.pipelined(mesh, None, None, None)
    with pytest.raises(inspector.InspectError, match=message):
        Layout.of(mesh, sequence=True, **words)
