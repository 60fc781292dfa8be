"""A module that several parents share: each call belongs to the parent that made it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import inspector
from inspector.profiling.views.modules import layers_frame, modules_frame, types_frame
from inspector.profiling.views.totals import totals
from inspector.tracing.capture import ForwardError, capture
from inspector.tracing.capture.modules import Shared, all_paths
from inspector.tracing.record import Trace

DEVICES = ("meta", "cpu")


def traced(
    model: nn.Module, *shape: int, phase: str = "forward", device: str = "meta", dtype: Any = None
) -> Trace:
    return capture(model, (torch.zeros(shape, device=device, dtype=dtype),), phase=phase, device=device)


def rows(trace: Trace, *columns: str) -> dict[str, Any]:
    frame = modules_frame(trace)
    values = (frame[column] for column in columns)
    return dict(zip(frame["path"], zip(*values) if columns[1:] else next(values)))


class Part(nn.Module):
    """A parent of a block; it calls it `times` times."""

    def __init__(self, block: nn.Module, times: int = 1) -> None:
        super().__init__()
        self.block, self.times = block, times

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for _ in range(self.times):
            x = self.block(x)
        return x


class Two(nn.Module):
    """An encoder and a decoder with one block."""

    def __init__(self, block: nn.Module, first: int = 1, second: int = 2) -> None:
        super().__init__()
        self.encoder, self.decoder = Part(block, first), Part(block, second)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(x))


@pytest.mark.parametrize("device", DEVICES)
def test_each_parent_gets_its_own_calls(device: str) -> None:
    trace = traced(Two(nn.Linear(4, 4)), 3, 4, device=device)
    # 3 x 4 by 4 x 4 is 48 MACs a call.
    assert rows(trace, "calls", "macs", "params") == {
        "": (1, 144, 20),
        "encoder": (1, 48, 20),
        "encoder.block": (1, 48, 20),
        "decoder": (1, 96, 20),
        "decoder.block": (2, 96, 20),
    }
    assert totals(trace)["params"] == 20
    assert [module.same_as for module in trace.modules] == [None, None, None, None, "encoder.block"]


def test_a_parent_that_never_runs_gets_nothing() -> None:
    class Idle(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.decoder(x)

    trace = traced(Idle(nn.Linear(4, 4), second=1), 3, 4)
    assert rows(trace, "calls", "macs") == {
        "": (1, 48), "encoder": (0, 0), "encoder.block": (0, 0), "decoder": (1, 48), "decoder.block": (1, 48),
    }  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_a_backward_goes_to_the_parent_whose_call_it_undoes(device: str) -> None:
    trace = traced(Two(nn.Linear(4, 4)), 3, 4, phase="train", device=device)
    macs = dict.fromkeys(("encoder.block", "decoder.block"), 0)
    for op in trace.ops:
        if op.phase == "backward" and op.macs:
            macs[op.module] += op.macs
    # Each call has a gradient of the weight, and of its input, but the first: 48 MACs each.
    assert macs == {"encoder.block": 48, "decoder.block": 2 * 96}
    # The weight is one: what its gradient is stored by belongs to its first name.
    stored = {op.module for op in trace.ops if op.phase == "backward" and op.name == "aten.detach"}
    assert stored == {"encoder.block"}


def test_what_a_shared_container_holds_goes_with_it() -> None:
    block = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 4)))
    trace = traced(Two(block), 3, 4)
    got = rows(trace, "calls", "macs")
    # 3 x 4 x 8 in each of the two layers
    for parent, calls in (("encoder", 1), ("decoder", 2)):
        assert got[f"{parent}.block.0"] == (calls, calls * 96)
        assert got[f"{parent}.block.1"] == (calls, calls * 96)
        assert got[f"{parent}.block.1.1"] == (calls, calls * 96)
    assert got[""] == (1, 3 * 192)


def test_the_same_module_twice_in_a_sequence_takes_turns() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert rows(traced(model, 3, 4), "calls", "macs") == {
        "": (1, 96),
        "0": (1, 48),
        "1": (1, 0),
        "2": (1, 48),
    }
    nested = nn.Sequential(model, model)
    assert rows(traced(nested, 3, 4), "calls") == {
        "": 1, "0": 1, "0.0": 1, "0.1": 1, "0.2": 1, "1": 1, "1.0": 1, "1.1": 1, "1.2": 1,
    }  # fmt: skip


class Listed(nn.Module):
    """One layer under a name of its own, and three times in a list, which no one calls."""

    def __init__(self, named: bool) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        if named:
            self.head = layer
        self.layers = nn.ModuleList([layer] * 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_list_shares_the_calls_among_its_places() -> None:
    assert rows(traced(Listed(named=False), 3, 4), "calls") == {
        "": 1, "layers": 0, "layers.0": 1, "layers.1": 1, "layers.2": 1,
    }  # fmt: skip


def test_a_module_that_its_parent_also_holds_by_name_is_called_by_that_name() -> None:
    # Nothing tells `self.head(x)` from `self.layers[0](x)`: the parent's own name goes first.
    assert rows(traced(Listed(named=True), 3, 4), "calls") == {
        "": 1, "head": 3, "layers": 0, "layers.0": 0, "layers.1": 0, "layers.2": 0,
    }  # fmt: skip


def test_of_two_names_in_one_parent_the_first_is_called() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.second(x))

    model = nn.Sequential(nn.ReLU(), Named())
    assert rows(traced(model, 3, 4), "calls") == {"": 1, "0": 1, "1": 1, "1.first": 2, "1.second": 0}


def test_tied_embeddings_of_encoder_and_decoder() -> None:
    class Half(nn.Module):
        def __init__(self, embedding: nn.Embedding) -> None:
            super().__init__()
            self.embedding, self.linear = embedding, nn.Linear(4, 4)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.linear(self.embedding(ids))

    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            embedding = nn.Embedding(10, 4)
            self.encoder, self.decoder = Half(embedding), Half(embedding)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = embedding.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(ids) + self.decoder(ids))

    trace = traced(Translator(), 1, 5, dtype=torch.int64)
    assert rows(trace, "calls", "params") == {
        "": (1, 80), "encoder": (1, 60), "encoder.embedding": (1, 40), "encoder.linear": (1, 20),
        "decoder": (1, 60), "decoder.embedding": (1, 40), "decoder.linear": (1, 20), "head": (1, 40),
    }  # fmt: skip
    tied = next(entry for entry in trace.state if entry.name == "encoder.embedding.weight")
    assert tied.aliases == ("decoder.embedding.weight", "head.weight")


def test_a_module_that_calls_itself_keeps_its_name() -> None:
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.depth = nn.Linear(4, 4), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.depth += 1
            return self.layer(x if self.depth == 3 else self(x))

    assert rows(traced(Two(Again(), second=0), 3, 4), "calls", "macs") == {
        "": (1, 144), "encoder": (1, 144), "encoder.block": (3, 144), "encoder.block.layer": (3, 144),
        "decoder": (1, 0), "decoder.block": (0, 0), "decoder.block.layer": (0, 0),
    }  # fmt: skip


def test_a_module_inside_itself_is_listed_once() -> None:
    outer = nn.Sequential(nn.ReLU())
    outer.add_module("whole", outer)
    assert [path for path, _ in all_paths(outer)] == ["", "0"]


def test_what_a_checkpoint_runs_again_belongs_to_its_parent() -> None:
    class Saving(Part):
        def forward(self, x: torch.Tensor) -> Any:
            return checkpoint(lambda x: self.block(x).relu(), x, use_reentrant=False)

    model = Two(nn.Linear(4, 4))
    model.decoder = Saving(model.encoder.block)
    for device in DEVICES:
        trace = traced(model, 3, 4, phase="train", device=device)
        again = [op.module for op in trace.ops if op.phase == "backward" and op.name == "aten.addmm"]
        assert again == ["decoder.block"], device
        assert rows(trace, "calls")["decoder.block"] == 2


def test_a_failure_names_the_parent_that_called() -> None:
    class Wrong(Two):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.decoder(self.encoder(x)[:, 1:])

    with pytest.raises(ForwardError, match=r"'decoder\.block'"):
        traced(Wrong(nn.Linear(4, 4)), 3, 4)


def test_layers_and_types_count_a_shared_module_once() -> None:
    trace = traced(Two(nn.Linear(4, 4)), 3, 4)
    layers = layers_frame(trace).to_frame().set_index("path")
    assert layers["params"].to_dict() == {"encoder.block": 20, "decoder.block": 0}
    assert layers["macs"].to_dict() == {"encoder.block": 48, "decoder.block": 96}
    types = types_frame(trace).to_frame().set_index("type")
    assert types.loc["Linear", ["modules", "calls", "params"]].tolist() == [1, 3, 20]


def test_a_trace_can_tell_shared_modules_by_their_first_path() -> None:
    trace = traced(Two(nn.Linear(4, 4)), 3, 4)
    folded = trace.by_first_path()
    assert {m.path: m.calls for m in folded.modules} == {
        "": 1, "encoder": 1, "encoder.block": 3, "decoder": 1,
    }  # fmt: skip
    assert {op.module for op in folded.ops if op.macs} == {"encoder.block"}
    assert totals(folded) == totals(trace)
    assert Trace.from_json(trace.to_json()) == trace
    plain = traced(nn.Sequential(nn.Linear(4, 4)), 3, 4)
    assert plain.by_first_path() is plain


def test_other_counters_agree_on_a_shared_module() -> None:
    report = inspector.reconcile(Two(nn.Linear(4, 4)), "3x4", counters=["torch", "ours"])
    assert report.to_frame("counters")["macs"].tolist() == [144, 144]
    assert report.to_frame("counters")["unexplained"].tolist() == [0, 0]


NEAR = {
    "in the one that runs": ("b", ["b.x"]),
    "below it": ("b.y.z", ["b.x"]),
    "far from all": ("c", ["a.x"]),
    "in the model": ("", ["a.x"]),
}


@pytest.mark.parametrize(("running", "paths"), NEAR.values(), ids=NEAR)
def test_the_nearest_place(running: str, paths: list[str]) -> None:
    assert Shared(("a.x", "b.x")).near(running) == paths
