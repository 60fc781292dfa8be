"""What a rank holds and sends, against what can be worked out with a pencil."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

import inspector
from inspector.core.devices import named
from inspector.core.links import Links, links, read_nodes
from inspector.models import as_recipe
from inspector.models.inputs import as_inputs
from inspector.scaling.bound import BETWEEN, INSIDE, Machine, seconds, times
from inspector.scaling.communication import Collective, ring
from inspector.scaling.layout import Layout
from inspector.scaling.simulate import Rank, simulate_rank
from inspector.scaling.step import Question
from inspector.scaling.summary import held, played, strides
from inspector.scaling.tensor_parallel import read, styles
from inspector.tracing.capture.kernels import Kernels
from inspector.tracing.capture.setting import Setting

WIDTH, DEPTH = 64, 8
PARAMETERS = WIDTH * WIDTH * DEPTH


class Stack(nn.Module):
    """Eight layers of 64 x 64: 32,768 parameters, which divide by every number of ranks below."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def rank_of(
    mesh: str, shard: str | None = None, rank: int = 0, optimizer: str = "adamw", **more: Any
) -> Rank:
    with torch.device("meta"):
        model = Stack()
    question = Question(as_recipe(model), as_inputs([f"4x{WIDTH}"]), optimizer, Kernels("cuda"))
    return simulate_rank(question, Layout.of(mesh, shard, **more), rank)


def sums(rank: Rank) -> tuple[Counter[str], Counter[str]]:
    """Calls and bytes of each kind of collective."""
    calls: Counter[str] = Counter()
    nbytes: Counter[str] = Counter()
    for one in rank.collectives:
        calls[one.kind] += 1
        nbytes[one.kind] += one.nbytes
    return calls, nbytes


@pytest.mark.parametrize("ranks", [2, 4, 8])
@pytest.mark.parametrize(
    ("shard", "parameters", "gradients", "states"),
    # Rajbhandari et al., ZeRO (arXiv 1910.02054), figure 1: 16 bytes a parameter, of which 2 + 2 are those of
    # half precision and 12 a float32 copy with its two moments. In float32 alone the 16 are 4 + 4 + 8; stage
    # 1 divides the state, stages 2 and 3 (FSDP2 at rest) all of it.
    [("ddp", 1, 1, 1), ("zero1", 1, 1, 0), ("zero2", 0, 0, 0), ("fsdp", 0, 0, 0)],
)
def test_the_table_of_zero(shard: str, parameters: int, gradients: int, states: int, ranks: int) -> None:
    holds = held(rank_of(f"dp={ranks}", shard).trace)
    expected = [
        each * PARAMETERS // (1 if whole else ranks)
        for each, whole in ((4, parameters), (4, gradients), (8, states))
    ]
    assert [holds["parameters"], holds["gradients"]] == expected[:2]
    # AdamW counts its steps in a float32 for each parameter that this rank steps
    steps = 4 * DEPTH // (ranks if shard == "zero1" else 1)
    assert holds["optimizer state"] == expected[2] + steps


def test_stage_3_in_mixed_precision_holds_zeros_16_bytes_a_parameter() -> None:
    rank = rank_of("dp=8", "fsdp", param_dtype="bfloat16", reduce_dtype="float32")
    holds = held(rank.trace)
    # a float32 copy, its gradient and two moments of each shard: 4 + 4 + 8, as 2 + 2 + 12
    assert sum(holds.values()) == 16 * PARAMETERS // 8 + 4 * DEPTH
    _, nbytes = sums(rank)
    assert nbytes["all-gather"] == 2 * 2 * PARAMETERS  # gathered twice, two bytes each
    assert nbytes["reduce-scatter"] == 4 * PARAMETERS


def test_a_step_of_fsdp_sends_three_times_the_parameters() -> None:
    calls, nbytes = sums(rank_of("dp=4"))
    assert calls == {"all-gather": 2 * DEPTH, "reduce-scatter": DEPTH}
    assert nbytes == {"all-gather": 2 * 4 * PARAMETERS, "reduce-scatter": 4 * PARAMETERS}


def test_parameters_that_stay_gathered_are_gathered_once() -> None:
    for rank in (rank_of("dp=4", reshard=False), rank_of("dp=4", "zero2")):
        calls, nbytes = sums(rank)
        assert calls == {"all-gather": DEPTH, "reduce-scatter": DEPTH}
        assert sum(nbytes.values()) == 2 * 4 * PARAMETERS
        # and all of them are there at once
        curve = played(rank.trace, exact=True).curve
        assert max(row.get("gathered parameters", 0) for row in curve) >= 4 * PARAMETERS


def test_gradients_of_several_batches_are_reduced_once() -> None:
    calls, _ = sums(rank_of("dp=4", accumulate=3))
    assert calls == {"all-gather": 3 * 2 * DEPTH, "reduce-scatter": DEPTH}
    calls, nbytes = sums(rank_of("dp=4", "ddp", accumulate=3))
    assert calls == {"all-reduce": 1}  # 131,072 bytes are below the first bucket's 1 MiB
    assert nbytes == {"all-reduce": 4 * PARAMETERS}


def test_what_is_offloaded_is_on_the_host() -> None:
    rank = rank_of("dp=4", offload=True)
    kept = rank_of("dp=4")
    # all that rests is on the host: a quarter of each parameter, its gradient, two moments, and the steps
    host = held(rank.trace, ("host",))
    assert sum(host.values()) == (4 + 4 + 8) * PARAMETERS // 4 + 4 * DEPTH
    assert held(rank.trace, ("meta",)) == {**dict.fromkeys(host, 0)}
    # each layer's shard goes up for its forward and for its backward, its gradient's comes down
    assert [len(each) for each in rank.copies.values()] == [2 * DEPTH, DEPTH]
    assert [sum(each) for each in rank.copies.values()] == [2 * 4 * PARAMETERS // 4, 4 * PARAMETERS // 4]
    assert kept.copies == {"to the device": [], "to the host": []}
    assert sums(rank) == sums(kept)
    # the device has neither of them at its peak
    parts = played(rank.trace, exact=True).categories
    assert not {"parameters", "gradients", "optimizer state"} & set(parts)
    assert (
        played(rank.trace, exact=True).allocated < played(kept.trace, exact=True).allocated - 3 * PARAMETERS
    )


def test_the_time_of_copies_to_the_host() -> None:
    # 4 GB over PCIe of 64 GB/s; the optimizer's step is the host's
    rank = rank_of("dp=4", offload=True)
    own = Machine(named("h100"), links("H100 SXM"), 8, 1)
    bounds = times(rank.trace, [], own, {"dp": 1}, 0, 4 * 10**9)
    assert bounds.copies == pytest.approx(1 / 16)
    assert bounds.step == pytest.approx(1 / 16)
    unknown = Machine(named("h100"), Links("x", 450, 50, ""), 8, 1)
    assert times(rank.trace, [], unknown, {"dp": 1}, 0, 4 * 10**9).step is None


def test_hsdp_shards_inside_and_reduces_across() -> None:
    rank = rank_of("replicate=2,dp=4")
    across = [one for one in rank.collectives if one.over == "replicate"]
    assert {one.kind for one in across} == {"all-reduce"}
    # the all-reduce is over what a rank keeps of each gradient
    assert sum(one.nbytes for one in across) == 4 * PARAMETERS // 4
    assert held(rank.trace)["parameters"] == 4 * PARAMETERS // 4


def test_the_units_of_fsdp_are_those_that_are_named() -> None:
    calls, nbytes = sums(rank_of("dp=4", wrap=("layers.0", "layers.1")))
    # two units are gathered twice; the other six layers are the root, which stays gathered
    assert calls == {"all-gather": 5, "reduce-scatter": 3}
    assert nbytes["all-gather"] == 4 * PARAMETERS * (2 + 2 + 6) // DEPTH


def test_ranks_cost_nothing() -> None:
    few, many = rank_of("dp=8"), rank_of("dp=4096")
    assert len(few.trace.ops) == len(many.trace.ops)
    # 64 rows over 4,096 ranks: FSDP2 pads each shard to one row
    assert held(many.trace)["parameters"] == 4 * DEPTH * WIDTH


def test_what_belongs_to_a_unit_is_told_of_its_module() -> None:
    rank = rank_of("dp=4")
    assert {one.module for one in rank.collectives} == {f"layers.{number}" for number in range(DEPTH)}


@pytest.mark.parametrize(("kind", "times"), [("all-reduce", 2), ("all-gather", 1), ("reduce-scatter", 1)])
def test_rings_send_all_but_their_own_part(kind: str, times: int) -> None:
    # Patarasuk & Yuan 2009: 2 (p - 1) / p for an all-reduce
    assert ring(kind, 8_000, 8) == times * 7_000
    assert ring(kind, 8_000, 1) == 0


class Block(nn.Module):
    """A block of Megatron-LM: one matrix for queries, keys and values, then a feed-forward."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.before(x)).view(batch, tokens, -1, 3, width // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind()
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.down(torch.relu(self.up(self.between(x))))


def blocks() -> nn.Module:
    return nn.Sequential(Block(), Block(), Block())


def test_megatrons_all_reduces(tmp_path: Any) -> None:
    # Shoeybi et al. (arXiv 1909.08053), section 3: two all-reduces in the forward of each layer and two in
    # its backward, each of batch x tokens x width
    plan = tmp_path / "plan.yaml"
    plan.write_text('"*.qkv": colwise\n"*.proj": rowwise\n"*.up": colwise\n"*.down": rowwise\n')
    report = inspector.scale(f"{__file__}:blocks", "tp=2", "2x16x32", tp_plan=plan, ranks=[0])
    rows = report.tables["collectives"]
    assert rows["collective"] == ["all-reduce"]
    assert rows["calls"] == [3 * 4]
    assert rows["nbytes"] == [3 * 4 * (2 * 16 * 32 * 4)]
    assert rows["sent"] == rows["nbytes"]  # 2 (p - 1) / p of 2 ranks
    # of 12 x 32 x 32 weights a block half are here, of the norms all
    assert report.tables["ranks"]["parameters_bytes"] == [3 * (12 * 32 * 32 // 2 + 4 * 32) * 4]


MACHINE = Machine(named("h100"), Links("x", 450, 50, ""), 8, 2)


def test_the_time_of_a_collective_between_nodes() -> None:
    # 16 ranks on two nodes of 8: half of 16 GB must enter each node through 8 adapters of 50 GB/s: 8 / 400 s;
    # each rank receives 15 GB through its own link of 450 GB/s: 1 / 30 s, which is longer
    one = Collective("all-gather", "dp", 16, "", "forward", 16 * 10**9, 0)
    place, took = seconds(one, MACHINE, strides({"dp": 16}))
    assert (place, took) == (BETWEEN, pytest.approx(1 / 30))
    # with a rank in each node, all through one adapter: 8 / 50 s
    across = Collective("all-reduce", "dp", 2, "", "backward", 16 * 10**9, 0)
    place, took = seconds(across, MACHINE, strides({"dp": 2, "tp": 8}))
    assert (place, took) == (BETWEEN, pytest.approx(2 * 8 / 50))


def test_the_time_of_a_collective_inside_a_node() -> None:
    one = Collective("all-reduce", "tp", 8, "", "forward", 45 * 10**8, 0)
    place, took = seconds(one, MACHINE, strides({"dp": 2, "tp": 8}))
    assert (place, took) == (INSIDE, pytest.approx(2 * 7 / 8 / 100))
    assert seconds(one, Machine(MACHINE.device, links("none"), 8, 2), {"tp": 1})[1] is None


def test_nodes_are_read_and_must_hold_the_mesh() -> None:
    assert read_nodes("8x4") == (8, 4)
    with pytest.raises(inspector.InspectError, match="hold 32 ranks, but the mesh has 16"):
        Machine.of(named("h100"), links("H100 SXM"), (8, 4), 16)


def test_no_group_is_left_behind() -> None:
    rank_of("dp=4")
    assert not dist.is_initialized()


def test_a_callers_own_group_lives_on(tmp_path: Any) -> None:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        # GIVEN a program that trains under a group of its own
        model = Stack()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        # WHEN it asks what its model would need elsewhere
        report = inspector.scale(model, "dp=4", f"4x{WIDTH}", ranks=[3])
        # THEN group and model are as they were
        assert report.tables["ranks"]["parameters_bytes"] == [PARAMETERS]
        value = torch.ones(1)
        dist.all_reduce(value)
        assert (dist.get_backend(), value.item()) == ("gloo", 1.0)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert type(model) is Stack
        with pytest.raises(inspector.InspectError, match="has a process group of its own"):
            rank_of("dp=4")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"mesh": "dp=4,xp=2"}, "no dimension 'xp'"),
        ({"mesh": "dp=4,cp=2"}, r"context parallelism \(cp=2\) is not simulated"),
        ({"mesh": "ep=4"}, r"expert parallelism \(ep=4\) is not simulated"),
        ({"mesh": "dp=0"}, "cannot read the size '0' of dp"),
        ({"mesh": "dp=4", "shard": "hsdp"}, "hsdp shards over dp"),
        ({"mesh": "dp=4", "shard": "zero3"}, "unknown sharding 'zero3'"),
        ({"mesh": "dp=2,tp=2", "shard": "ddp"}, "beside tensor parallelism"),
        ({"mesh": "dp=4", "shard": "ddp", "param_dtype": "bfloat16"}, "a policy of FSDP2"),
        ({"mesh": "dp=4", "shard": "ddp", "offload": True}, "`offload=` is a policy of FSDP2"),
        ({"mesh": "dp=4,pp=2", "offload": True}, "offload beside a pipeline"),
        ({"mesh": "dp=4", "optimizer": "adam8bit"}, "'adam8bit' is not simulated"),
        ({"mesh": "dp=4", "phase": "forward", "optimizer": "adam"}, "belong to training"),
        ({"mesh": "dp=4", "nodes": "2x2"}, "give times of a device"),
        ({"mesh": "dp=4", "ranks": [4]}, "no rank 4 among 4"),
        ({"mesh": "tp=2", "inputs": f"4x{WIDTH}"}, "has no plan of tensor parallelism"),
    ],
)
def test_what_cannot_be_simulated_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(inspector.InspectError, match=message) as caught:
        inspector.scale(f"{__file__}:Stack", **words)
    assert caught.value.hint


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if x.sum() > 0 else x * self.one.weight.sum()


def test_a_model_that_reads_values_is_refused() -> None:
    with pytest.raises(inspector.InspectError, match="depends on values"):
        inspector.scale(f"{__file__}:Reads", "dp=2", "2x4", ranks=[0])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one: sequence_parallel", "style 'sequence_parallel' of one is not simulated"),
        ("three: colwise", "names three, which the model does not have"),
        ('"one": [1]', "is not simulated"),
    ],
)
def test_a_plan_that_torch_cannot_follow_is_refused(line: str, message: str, tmp_path: Any) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(line)
    with pytest.raises(inspector.InspectError, match=message):
        styles(Tied(), read(plan))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))


class Attends(nn.Module):
    """Six heads of four, an embedding of ten words, and what a plan may split of them."""

    head_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.words, self.query = nn.Embedding(10, 12), nn.Linear(12, 24)
        self.out, self.plain = nn.Linear(24, 12), nn.Linear(12, 10)


@pytest.mark.parametrize(
    ("plan", "ranks", "message"),
    [
        ({"query": "colwise"}, 4, "query has 6 heads, which tp=4 does not divide"),  # 24 / 4 / 4
        ({"plain": "colwise_rep"}, 4, "plain has 10 outputs"),
        ({"out": "rowwise"}, 5, "out has 24 inputs"),
        ({"words": "embedding_rowwise"}, 4, "words has 10 words"),
        ({"words": "colwise"}, 5, "words has 12 features"),
        ({"words": "rowwise"}, 2, "words is an Embedding, whose words every rank has"),
        ({"query": "colwise", "out": "rowwise", "words": "embedding_rowwise", "plain": "colwise"}, 2, ""),
    ],
)
def test_sizes_that_tp_does_not_divide_are_refused(plan: dict[str, str], ranks: int, message: str) -> None:
    model = Attends()
    if not message:
        assert set(styles(model, plan, ranks)) == set(plan)
        return
    with pytest.raises(inspector.InspectError, match=message) as caught:
        styles(model, plan, ranks)
    assert "use a tp that does: 2" in str(caught.value.hint) or "use embedding_rowwise" in str(
        caught.value.hint
    )


def test_the_header_says_what_nobody_asked_for() -> None:
    report = inspector.scale(f"{__file__}:Stack", "dp=2", f"4x{WIDTH}", ranks=[0])
    header = dict(report.header)
    assert header["phase"] == "training step, sgd (default)"
    assert header["loss"] == "the sum of its output (the model returns no loss)"
    assert header["precision"] == "float32 (as the model is)"
    assert "(default)" not in header["input"]


def test_a_tied_weight_is_not_split_in_one_place(tmp_path: Any) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text("one: colwise\n")
    with pytest.raises(inspector.InspectError, match="one and two share a weight"):
        inspector.scale(f"{__file__}:Tied", "tp=2", "2x4", tp_plan=plan, ranks=[0])


@pytest.mark.parametrize(("dtype", "known"), [("float16", True), ("bfloat16", False)])
def test_utilisation_is_unknown_where_a_peak_is(dtype: str, known: bool) -> None:
    """A V100 has no peak for products of bfloat16."""
    trace = inspector.trace(nn.Linear(8, 4, bias=False), "2x8", phase="train", setting=Setting(dtype))
    machine = Machine(named("v100"), Links("x", 150, 12, ""), 8, 1)
    useful = times(trace, [], machine, {}).useful
    assert useful == (pytest.approx(3 * 2 * 2 * 8 * 4 / 125e12) if known else None)
