"""The explanation on counts made by hand: rules of counters that may not be installed, and the join."""

from __future__ import annotations

import pytest
from torch import nn

from inspector.counters import find
from inspector.counters.operators import Contractions
from inspector.counters.reconcile import causes, explain
from inspector.counters.record import CAUSES, Cell, Count
from inspector.profiling.run import trace


def leaf(family: str, output: list[int], **sizes: int) -> dict[str, object]:
    return {"family": family, "output": output, "sizes": sizes}


def test_a_linear_counted_once_per_sample() -> None:
    # torchinfo: 2 samples x (12 weights + 3 biases); ours: 2 * 5 rows x 12.
    found = trace(nn.Linear(4, 3), "2x5x4")
    cell = Cell("", "Linear", 30, leaf("linear", [2, 5, 3], weight=12, bias=3))
    explained = explain(find("torchinfo"), Count(30, cells=(cell,)), found, found)
    assert {p.cause: p.amount for p in explained.parts} == {
        "Linear counted once per sample": -96,
        "counts bias": 6,
    }
    assert (explained.difference, explained.unexplained) == (-90, 0)


def test_a_class_that_is_taken_for_a_convolution_by_its_name() -> None:
    class Conv1D(nn.Linear):  # what transformers' GPT-2 calls its linear layers
        pass

    # Weights times the sample and what is taken for a position: 1 * 3; ours: 5 rows x 12.
    found = trace(Conv1D(4, 3, bias=False), "1x5x3x4")
    cell = Cell("", "Conv1D", 12 * 9, leaf("convolution", [1, 5, 3, 3], weight=12))
    explained = explain(find("torchinfo"), Count(108, cells=(cell,)), found, found)
    assert {p.cause: p.amount for p in explained.parts} == {"taken for a convolution by its name": 108 - 180}
    assert explained.unexplained == 0


@pytest.mark.parametrize("counter", ["thop", "torchinfo"])
def test_what_no_rule_explains_is_left_over_and_does_not_cancel(counter: str) -> None:
    # One module has 7 too many, the other 7 too few: the total agrees, the modules do not.
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    found = trace(model, "1x4")
    details = (
        [{"affine": False, "first": "0"}, {"affine": False, "first": "1"}]
        if counter == "thop"
        else [leaf("linear", [1, 3], weight=12), leaf("linear", [1, 2], weight=6)]
    )
    cells = (Cell("0", "count_linear", 12 + 7, details[0]), Cell("1", "count_linear", 6 - 7, details[1]))
    explained = explain(find(counter), Count(18, cells=cells), found, found)
    assert explained.difference == 0
    assert explained.remainder == {"0": 7, "1": -7}
    assert explained.unexplained == 14
    assert [row["cause"] for row in causes(explained)] == ["unexplained"]


def test_a_total_that_is_not_the_sum_of_its_parts_is_left_over() -> None:
    found = trace(nn.Linear(4, 3, bias=False), "1x4")
    cell = Cell("", "count_linear", 12, {"affine": False, "first": ""})
    explained = explain(find("thop"), Count(17, cells=(cell,)), found, found)
    assert (explained.difference, explained.remainder) == (5, {"(in no module)": 5})


def test_work_that_depends_on_the_data_is_told_from_a_fault_of_the_counter() -> None:
    # Ours assumes 10 rows, the data had 7, and the counter counted those: 3 * 12 less.
    layer = nn.Linear(4, 3)
    most, real = trace(layer, "10x4"), trace(layer, "7x4")
    cell = Cell("", "count_linear", 84, {"affine": False, "first": ""})
    explained = explain(find("thop"), Count(84, cells=(cell,)), most, real)
    assert {p.cause: p.amount for p in explained.parts} == {"work that depends on the data": -36}
    assert explained.unexplained == 0


def test_classes_of_operators() -> None:
    kinds = {
        "convolution": (nn.Conv2d(3, 4, 3), "1x3x4x4"),
        "transposed convolution": (nn.ConvTranspose2d(3, 4, 3), "1x3x4x4"),
        "linear": (nn.Linear(3, 4), "2x3"),
        "recurrent": (nn.GRU(3, 4), "5x1x3"),
    }
    for kind, (layer, shape) in kinds.items():
        assert {work.kind for work in Contractions(trace(layer, shape)).all} == {kind}
        trained = Contractions(trace(layer, shape, phase="train"))
        assert {work.kind for work in trained.all} == {kind}
    attention = trace(nn.TransformerEncoderLayer(4, 2, 8), "5x1x4")
    assert {work.kind for work in Contractions(attention).all} == {"linear", "attention"}


def test_every_adapter_says_what_it_includes_and_where_that_was_read() -> None:
    from inspector.counters import NAMES

    for name in NAMES:
        counter = find(name)
        assert counter.name == name
        assert counter.unit in ("MAC", "FLOP")
        assert len(counter.convention) > 40
        assert "/" in counter.source
        assert counter.install.startswith("pip install") or name in ("ours", "torch")
    assert "other" not in CAUSES
