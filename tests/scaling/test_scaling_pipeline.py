"""Pipelines, against what can be worked out with a pencil; against real processes in test_scaling_truth."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.core.devices import named
from inspector.core.links import Links
from inspector.models import as_recipe
from inspector.models.inputs import as_inputs
from inspector.scaling.bound import BETWEEN, INSIDE, Machine, seconds
from inspector.scaling.bubble import in_flight, play
from inspector.scaling.communication import Collective
from inspector.scaling.layout import Action, Layout
from inspector.scaling.line import standing
from inspector.scaling.pipeline import Cut, find_cut, keep, verify
from inspector.scaling.simulate import Rank, simulate_rank
from inspector.scaling.step import Question
from inspector.scaling.summary import held, played
from inspector.tracing.capture.kernels import Kernels

WIDTH, WORDS, TOKENS = 32, 50, 16


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x))


class Tower(nn.Module):
    """Eight layers between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(8))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def rank_of(
    mesh: str, rank: int, schedule: str, microbatches: int, shard: str = "fsdp", batch: int | None = None
) -> Rank:
    with torch.device("meta"):
        model = Tower()
    words = Layout.pipelined(mesh, schedule, microbatches, None)
    question = Question(
        as_recipe(model), as_inputs([f"int64[{batch or microbatches},{TOKENS}]"]), "adamw", Kernels("cuda")
    )
    return simulate_rank(question, Layout.of(mesh, shard, **words), rank)


def played_alike(order: Any, forward: float = 1.0, backward: float = 2.0) -> Any:
    """All stages as fast as each other, and links without delay."""
    return play(
        order,
        lambda action: forward if action.kind == "F" else backward,
        lambda one, other: 0.0,
        [0.0] * len(order),
    )


@pytest.mark.parametrize(("schedule", "stages"), [("gpipe", 1), ("1f1b", 1), ("interleaved", 2)])
def test_the_bubble_of_each_schedule(schedule: str, stages: int) -> None:
    p, m = 4, 8
    line = rank_of(f"pp={p}", 1, schedule, m).line
    assert line is not None
    # Narayanan et al. (arXiv 2104.04473), section 2.2: the bubble is (p - 1) / (v m) of the ideal time, v the
    # stages of a rank: of the whole time that is (p - 1) / (v m + p - 1)
    played = played_alike(line.order)
    assert played.bubble == pytest.approx((p - 1) / (stages * m + p - 1))
    assert played.busy == (stages * m * 3.0,) * p


@pytest.mark.parametrize(("place", "most"), [(0, 4), (1, 3), (2, 2), (3, 1)])
def test_1f1b_holds_the_microbatches_of_the_stages_that_follow(place: int, most: int) -> None:
    # min(p - stage, m), where GPipe holds all m
    rank = rank_of("pp=4", place, "1f1b", 8)
    assert rank.line is not None
    assert in_flight(rank.line.order[place]) == most
    assert in_flight([action for action, _, _ in rank.line.mine]) == most
    if place in (1, 2):
        # a middle stage of two layers keeps of each microbatch what it receives, and two outputs of relu;
        # on torch 2.8 it receives all eight into buffers that stay
        curve, one = played(rank.trace, exact=True).curve, TOKENS * WIDTH * 4
        each = 2 if max(row.get("communication buffers", 0) for row in curve) >= 8 * one else 3
        assert max(row.get("activations", 0) for row in curve) == most * each * one


def test_a_slow_stage_and_slow_links_make_others_wait() -> None:
    # two ranks, two microbatches, GPipe: F0 F0 B0 B0 | F1 F1 B1 B1
    order = [
        [Action("F", 0, 0), Action("F", 0, 1), Action("B", 0, 0), Action("B", 0, 1)],
        [Action("F", 1, 0), Action("F", 1, 1), Action("B", 1, 0), Action("B", 1, 1)],
    ]
    took = {("F", 0): 1.0, ("B", 0): 1.0, ("F", 1): 3.0, ("B", 1): 3.0}
    line = play(order, lambda a: took[a.kind, a.stage], lambda one, other: 0.5, [0.0, 0.0])
    # rank 1: waits 1 + 0.5, then 4 x 3 = 13.5; rank 0: its last backward 0.5 after that, for 1
    assert line.ends == (15.0, 13.5)
    assert line.busy == (4.0, 12.0)
    assert line.bubble == pytest.approx(1 - 16 / 30)


def test_ranks_that_wait_for_each_other_are_an_error() -> None:
    with pytest.raises(ValueError, match="wait for each other"):
        played_alike([[Action("B", 0, 0), Action("F", 0, 0)], [Action("F", 1, 0), Action("B", 1, 0)]])


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_what_a_stage_holds_and_sends(schedule: str) -> None:
    first, middle, last = (rank_of("pp=4", place, schedule, 4) for place in (0, 1, 3))
    layers = 2 * WIDTH * WIDTH
    assert held(first.trace)["parameters"] == 4 * (layers + WORDS * WIDTH)
    assert held(middle.trace)["parameters"] == 4 * layers
    assert held(last.trace)["parameters"] == 4 * (layers + WORDS * WIDTH)
    assert held(middle.trace)["optimizer state"] == 2 * 4 * layers + 2 * 4  # and two counts of steps
    one = TOKENS * WIDTH * 4

    def sent(rank: Rank) -> dict[Any, tuple[int, int]]:
        calls: Counter[Any] = Counter((each.kind, each.peer) for each in rank.collectives)
        return {
            key: (count, sum(each.nbytes for each in rank.collectives if (each.kind, each.peer) == key))
            for key, count in calls.items()
        }

    assert sent(first) == {("send", 1): (4, 4 * one), ("receive", 1): (4, 4 * one)}
    assert sent(middle) == {(kind, peer): (4, 4 * one) for kind in ("send", "receive") for peer in (0, 2)}
    assert sent(last) == {("send", 2): (4, 4 * one), ("receive", 2): (4, 4 * one)}
    assert all(each.sent == (each.nbytes if each.kind == "send" else 0) for each in middle.collectives)


def test_stages_beside_fsdp_gather_over_dp_alone() -> None:
    rank = rank_of("dp=2,pp=2", 3, "1f1b", 2, "zero2")
    kinds = Counter((each.kind, each.over) for each in rank.collectives)
    # four layers, and the head with the rest: gathered once, reduced once after the last microbatch
    assert kinds["all-gather", "dp"] == 5
    assert kinds["reduce-scatter", "dp"] == 5
    assert kinds["send", "pp"] == kinds["receive", "pp"] == 2
    assert held(rank.trace)["parameters"] == 4 * (4 * WIDTH * WIDTH + WORDS * WIDTH) // 2


@pytest.mark.parametrize(
    ("words", "kernels", "item"),
    # in mixed precision the stages pass on what the layers compute in: FSDP2's parameters, or autocast's
    [({"param_dtype": "bfloat16"}, {}, 2), ({}, {"autocast": "bfloat16"}, 2), ({}, {}, 4)],
)
def test_what_is_sent_has_the_type_of_the_layers(words: Any, kernels: Any, item: int) -> None:
    with torch.device("meta"):
        model = Tower()
    layout = Layout.of("pp=2,dp=2", "fsdp", **Layout.pipelined("pp=2", "1f1b", 2, None), **words)
    question = Question(
        as_recipe(model), as_inputs([f"int64[2,{TOKENS}]"]), "sgd", Kernels("cuda", **kernels)
    )
    for rank in (0, 3):
        sent = [
            one.nbytes for one in simulate_rank(question, layout, rank).collectives if one.peer is not None
        ]
        assert sent == [TOKENS * WIDTH * item] * 4


def test_what_a_stage_gives_is_compared_with_what_the_next_expects() -> None:
    from inspector.scaling.stages import _compare

    _compare(torch.empty(2, 3), torch.empty(2, 3), 0)
    with pytest.raises(inspector.InspectError, match="stage 0 of the pipeline gives"):
        _compare(torch.empty(2, 3, dtype=torch.bfloat16), torch.empty(2, 3), 0)


def test_an_interleaved_rank_has_every_other_stage() -> None:
    rank = rank_of("pp=2", 0, "interleaved", 4)
    assert rank.line is not None
    assert rank.line.stages == ("0-1 + embed", "2-3", "4-5", "6-7 + head")
    assert {action.stage for action, _, _ in rank.line.mine} == {0, 2}
    assert held(rank.trace)["parameters"] == 4 * (4 * WIDTH * WIDTH + WORDS * WIDTH)


@pytest.mark.parametrize(
    ("blocks", "stages", "counts"),
    [
        (32, 4, [8, 8, 8, 8]),
        (3, 2, [2, 1]),
        # Llama 3 405B (arXiv 2407.21783, section 3.3.2): one layer less in the first and in the last stage
        (126, 16, [7, *[8] * 14, 7]),
        (5, 3, [2, 2, 1]),
    ],
)
def test_blocks_are_spread_evenly(blocks: int, stages: int, counts: list[int]) -> None:
    cut = Cut("layers", tuple(map(str, range(blocks))), (), (), torch.empty(0))
    owned = cut.owned(stages)
    assert list(map(len, owned)) == counts
    assert [name for names in owned for name in names] == list(cut.names)


def cut_of(kind: type[nn.Module], stages: int = 2) -> list[nn.Module]:
    """The stages of a model, each verified."""
    with torch.device("meta"):
        model = kind()
    ids = [torch.zeros(2, TOKENS, dtype=torch.int64, device="meta")]
    cut = find_cut(model, stages, ids, {}, nullcontext, kind.__name__)
    parts = [deepcopy(model) for _ in range(stages)]
    for number, part in enumerate(parts):
        keep(part, cut, stages, number)
        verify(part, cut, stages, number, ids, {}, nullcontext)
    return parts


def test_the_stages_of_a_model_compute_what_it_does() -> None:
    torch.manual_seed(0)
    model = Tower()
    ids = torch.randint(0, WORDS, (2, TOKENS))
    cut = find_cut(deepcopy(model).to("meta"), 3, [ids.to("meta")], {}, nullcontext, "Tower")
    value: Any = ids
    for number in range(3):
        part = deepcopy(model)
        keep(part, cut, 3, number)
        value = part(value)
    assert torch.equal(value, model(ids))


class Scaled(Tower):
    """Does something before its head that each stage would do."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x * 2)


class Entered(Tower):
    """Does something behind its embedding that each stage would do."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) * 2
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Between(Tower):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x) + 1
        return self.head(x)


class Own(Tower):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(WIDTH))

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * self.scale.sum()


class Tied(Tower):
    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.embed.weight


class Beside(Tower):
    """One module at both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.embed(ids))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        return self.two(self.one(ids))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Scaled, "the output of layers.3 is changed before stage 0 returns it"),
        (Entered, "what stage 1 receives is changed before its first block, layers.4"),
        (Between, "layers.1 does not take what layers.0 returns"),
        (Own, "uses the parameter scale itself"),
        (Tied, "embed and head of Tied share a weight"),
        (Beside, "norm of Beside runs beside its blocks"),
        (Flat, "has no list of blocks"),
    ],
)
def test_a_model_that_does_more_between_its_blocks_is_refused(kind: type[nn.Module], message: str) -> None:
    with pytest.raises(inspector.InspectError, match=message):
        cut_of(kind)


def test_others_are_cut() -> None:
    assert len(cut_of(Tower, 8)) == 8
    sequential = find_cut(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()),
        2, [torch.zeros(2, 4)], {}, nullcontext, "Sequential",
    )  # fmt: skip
    assert sequential.described(2) == ["0-1", "2-3"]


def test_resnet50_is_refused() -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        model = resnet50()
    images = [torch.empty(2, 3, 64, 64, device="meta")]
    # its longest list, layer3, is followed by layer4, pooling and a flatten that belongs to no module
    cut = find_cut(model, 2, images, {}, nullcontext, "resnet50")
    keep(model, cut, 2, 0)
    with pytest.raises(inspector.InspectError, match=r"output of layer3\.2 is changed before stage 0"):
        verify(model, cut, 2, 0, images, {}, nullcontext)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mesh": "pp=1"}, "a pipeline of one stage"),
        ({"mesh": "dp=2", "schedule": "gpipe"}, "`schedule=` belongs to a pipeline"),
        ({"mesh": "dp=2,pp=2", "shard": "ddp"}, "ddp beside a pipeline"),
        ({"mesh": "pp=2", "accumulate": 2}, "microbatches of a pipeline accumulate"),
        ({"mesh": "pp=2", "microbatches": 0}, "cannot cut a batch into 0"),
        ({"mesh": "pp=2", "schedule": "1f1b", "stages_per_rank": 2}, "1f1b does not run 2 stages"),
        ({"mesh": "pp=2", "schedule": "zbv"}, "unknown schedule 'zbv'"),
        ({"mesh": "pp=2", "phase": "forward"}, "simulated in training"),
    ],
)
def test_a_pipeline_that_does_not_exist_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(inspector.InspectError, match=message) as caught:
        inspector.scale(f"{__file__}:Tower", inputs=f"int64[1,{TOKENS}]", **words)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("words", "batch", "message"),
    [
        (("pp=2", 0, "gpipe", 2), 3, "batch of 3 cannot be split into 2"),
        (("pp=4", 0, "1f1b", 2), 2, "1f1b needs a microbatch for each of 4 stages, but has 2"),
        (("pp=16", 0, "gpipe", 2), 2, "layers of Tower has 8 blocks, too few for 16 stages"),
        # torch: microbatches divide by max(1, microbatches // ranks) rounds
        (("pp=2", 0, "interleaved", 5), 5, "the schedule interleaved refuses the model"),
    ],
)
def test_a_pipeline_that_the_model_cannot_run_is_refused(words: Any, batch: int, message: str) -> None:
    with pytest.raises(inspector.InspectError, match=message) as caught:
        rank_of(*words, batch=batch)
    assert caught.value.hint


def test_ranks_with_the_same_blocks_stand_for_each_other() -> None:
    order = [[Action("F", place, 0), Action("B", place, 0)] for place in range(5)]
    order[2] = [Action("F", 2, 0), Action("F", 2, 1), Action("B", 2, 0), Action("B", 2, 1)]
    assert standing([3, 4, 4, 3, 3], order) == (0, 2, 2, 3, 4)


def test_a_send_uses_the_link_between_two_ranks() -> None:
    machine = Machine(named("h100"), Links("x", 450, 50, ""), 8, 2)
    apart = {"pp": 4, "dp": 1}
    # 16 ranks, a pipeline of 4 over ranks 0, 4, 8, 12: 0 and 4 share a node, 4 and 8 do not
    near = Collective("send", "pp", 4, "", "forward", 450 * 10**6, 0, 1)
    assert seconds(near, machine, apart, 0) == (INSIDE, pytest.approx(1e-3))
    far = Collective("send", "pp", 4, "", "forward", 50 * 10**6, 0, 2)
    assert seconds(far, machine, apart, 4) == (BETWEEN, pytest.approx(1e-3))
    receives = Collective("receive", "pp", 4, "", "forward", 50 * 10**6, 0, 2)
    assert seconds(receives, machine, apart, 4) == (BETWEEN, 0.0)


def test_the_report_of_a_pipeline() -> None:
    report = inspector.scale(f"{__file__}:Tower", "pp=4", f"int64[8,{TOKENS}]", gpu="h100", optimizer="adamw")
    ranks = report.tables["ranks"].records()
    # the first, the last, and of the two in the middle the one with more in flight
    assert [row["rank"] for row in ranks] == [0, 1, 3]
    line = report.tables["pipeline"].records()
    assert [row["in_flight"] for row in line] == [4, 3, 2, 1]
    assert [row["simulated"] for row in line] == ["", "", "as pp=1", ""]
    assert line[0]["blocks"] == "0-1 + embed"
    peers = report.tables["peers"].records()
    assert {row["peer"] for row in peers} <= {0, 1, 2}
    assert report.metrics["sends"].value == 8
    step, bubble = report.metrics["step_bound"].value, report.metrics["bubble"].value
    assert step > max(row["busy"] for row in line) > 0
    assert 3 / 11 - 0.2 < bubble < 1
    assert dict(report.header)["loss"] == "the sum of its output (the model returns no loss)"
    assert "1f1b (default)" not in dict(report.header)["pipeline"]
    assert (
        "8 microbatches of 1 sample (default); layers cut into 2, 2, 2, 2 blocks"
        in dict(report.header)["pipeline"]
    )
