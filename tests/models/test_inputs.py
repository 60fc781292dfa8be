"""The input grammar, and the tensors that are made of it."""

from __future__ import annotations

import random
from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.core.errors import InspectError, first_line
from inspector.models.inputs import (
    Inputs,
    InputSpec,
    as_inputs,
    batch_of_two,
    index_range,
    materialise,
    parse_inputs,
)

LINEAR = nn.Linear(2, 2)


def one(text: str) -> Any:
    inputs = parse_inputs([text])
    assert not inputs.kwargs
    (value,) = inputs.args
    return value


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("1x3x224x224", (1, 3, 224, 224), torch.float32),
        ("7", (7,), torch.float32),
        ("1,3,8", (1, 3, 8), torch.float32),
        (" 2 x 3 ", (2, 3), torch.float32),
        ("0x4", (0, 4), torch.float32),
        ("float32[1,3,224,224]", (1, 3, 224, 224), torch.float32),
        ("float16[2x3]", (2, 3), torch.float16),
        ("bfloat16[4]", (4,), torch.bfloat16),
        ("float64 [ 1, 2 ]", (1, 2), torch.float64),
        ("complex64[2]", (2,), torch.complex64),
        ("int64[1,128]", (1, 128), torch.int64),
        ("long[5]", (5,), torch.int64),
        ("bool[3]", (3,), torch.bool),
        ("uint8[3]", (3,), torch.uint8),
        ("int64[]", (), torch.int64),
        ("float32[]", (), torch.float32),
        ("float32[3,]", (3,), torch.float32),
    ],
)
def test_a_tensor_is_a_shape_with_or_without_a_dtype(text: str, shape: Any, dtype: Any) -> None:
    assert one(text) == InputSpec(shape, dtype)


def test_a_name_makes_a_keyword_input() -> None:
    inputs = parse_inputs(["ids=int64[1,128]", "mask = 1x128"])
    assert inputs.args == ()
    assert inputs.kwargs == {"ids": InputSpec((1, 128), torch.int64), "mask": InputSpec((1, 128))}


def test_several_strings_are_several_inputs_in_their_order() -> None:
    inputs = parse_inputs(["1x2", "3x4", "flag=bool[1]"])
    assert [spec.shape for spec in inputs.args] == [(1, 2), (3, 4)]
    assert list(inputs.kwargs) == ["flag"]


def test_brackets_make_a_list_and_lists_nest() -> None:
    assert one("[3x8x8,3x6x6]") == [InputSpec((3, 8, 8)), InputSpec((3, 6, 6))]
    assert one("[[1x2],[int64[3],4]]") == [
        [InputSpec((1, 2))],
        [InputSpec((3,), torch.int64), InputSpec((4,))],
    ]
    assert one("[]") == []
    assert parse_inputs(["images=[3x8x8]"]).kwargs == {"images": [InputSpec((3, 8, 8))]}


@pytest.mark.parametrize(
    "text",
    [
        "", "abc", "1x", "x1", "1xx3", "1x-3", "1.5x2", "1x3x", "float32", "float32[", "float32[1",
        "float32[1]]", "[1x2", "1x2]", "flot32[1]", "load[1]", "quint8[1]", "float32[1,,2]",
        "float32[x]", "float32[-1]", "float32[a]", "x=", "=1x3", "1x99999999999999", "[1x2],[3x4]",
        "[abc]", "device[1]",
    ],
)  # fmt: skip
def test_what_is_not_in_the_grammar_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(InspectError) as caught:
        parse_inputs([text])
    assert text in caught.value.message
    assert "1x3x224x224" in (caught.value.hint or "")
    assert "\n" not in caught.value.message


def test_a_keyword_given_twice_is_refused() -> None:
    with pytest.raises(InspectError, match="'x' appears twice"):
        parse_inputs(["x=1", "x=2"])


def written(value: Any, draw: random.Random) -> str:
    if isinstance(value, list):
        return f"[{','.join(written(entry, draw) for entry in value)}]"
    separator = draw.choice([",", "x", " x ", ", "])
    return f"{str(value.dtype).removeprefix('torch.')}[{separator.join(map(str, value.shape))}]"


def drawn(draw: random.Random, depth: int = 0) -> Any:
    if depth < 3 and draw.random() < 0.3:
        return [drawn(draw, depth + 1) for _ in range(draw.randrange(4))]
    dtypes = (torch.float32, torch.float16, torch.int64, torch.bool, torch.uint8, torch.complex64)
    shape = tuple(draw.randrange(2**40) for _ in range(draw.randrange(5)))
    return InputSpec(shape, draw.choice(dtypes))


def test_every_specification_survives_being_written_and_read() -> None:
    draw = random.Random(0)
    for _ in range(300):
        value = drawn(draw)
        assert one(written(value, draw)) == value


def test_on_meta_the_tensors_have_a_shape_and_no_values() -> None:
    # GIVEN an input of 4 TiB
    inputs = parse_inputs(["1024x1024x1024x1024", "ids=int64[2]"])
    # WHEN it is made on meta
    args, kwargs = materialise(inputs, LINEAR, "meta")
    # THEN it costs nothing
    assert args[0].is_meta
    assert args[0].shape == (1024,) * 4
    assert kwargs["ids"].is_meta
    assert kwargs["ids"].dtype is torch.int64


def test_equal_seeds_give_equal_values_and_another_seed_gives_others() -> None:
    inputs = parse_inputs(["3x4", "n=int32[50]", "[bool[50]]"])
    model = nn.Embedding(1000, 1)

    def values(seed: int) -> list[torch.Tensor]:
        args, kwargs = materialise(inputs, model, "cpu", seed)
        return [args[0], kwargs["n"], args[1][0]]

    assert all(map(torch.equal, values(1), values(1)))
    assert not any(map(torch.equal, values(1), values(2)))


def test_making_inputs_keeps_the_callers_random_state() -> None:
    before = torch.get_rng_state()
    materialise(parse_inputs(["3x4", "int64[3]"]), LINEAR, "cpu", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"])
def test_integers_are_legal_for_every_embedding_of_the_model(dtype: str) -> None:
    # GIVEN a vocabulary, a table of positions and one of two types
    model = nn.ModuleList([nn.Embedding(1000, 4), nn.Embedding(64, 4), nn.EmbeddingBag(2, 4)])
    # WHEN ten thousand integers are drawn
    (ids,), _ = materialise(parse_inputs([f"{dtype}[10000]"]), model, "cpu")
    # THEN each of them is a row of all three
    assert str(ids.dtype) == f"torch.{dtype}"
    assert set(ids.tolist()) == {0, 1}


def test_integers_stay_in_the_range_of_a_narrow_dtype() -> None:
    (ids,), _ = materialise(parse_inputs(["int8[10000]"]), nn.Embedding(100_000, 1), "cpu")
    assert int(ids.min()) >= 0
    assert int(ids.max()) <= 126


def test_a_source_may_name_the_range_itself() -> None:
    inputs = Inputs((InputSpec((10_000,), torch.int64, below=3),))
    (ids,), _ = materialise(inputs, nn.Embedding(100, 1), "cpu")
    assert set(ids.tolist()) == {0, 1, 2}


def test_the_range_of_integers_without_any_embedding_is_two() -> None:
    assert index_range(LINEAR) == 2


def test_booleans_are_drawn_fairly() -> None:
    (flags,), _ = materialise(parse_inputs(["bool[10000]"]), LINEAR, "cpu")
    assert flags.dtype is torch.bool
    # Ten standard deviations of a fair coin: 10 * sqrt(10000) / 2 = 500.
    assert abs(int(flags.sum()) - 5000) < 500


def test_fixed_values_are_kept() -> None:
    inputs = Inputs((InputSpec((1, 2), values=[[1.5, 2.5]]),))
    assert materialise(inputs, LINEAR, "cpu")[0][0].tolist() == [[1.5, 2.5]]


def test_a_shape_beyond_memory_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(InspectError) as caught:
        materialise(parse_inputs(["100000x100000x100000"]), LINEAR, "cpu")
    assert "smaller" in (caught.value.hint or "")


def test_the_api_takes_tensors_tuples_lists_dicts_and_strings() -> None:
    x, y = torch.zeros(1, 2), torch.zeros(3)
    assert as_inputs(x).args == (x,)
    for several in ((x, y), [x, y]):
        first, second = as_inputs(several).args
        assert first is x
        assert second is y
    assert as_inputs({"a": x}).kwargs["a"] is x
    assert as_inputs("1x2") == as_inputs(["1x2"]) == Inputs((InputSpec((1, 2)),))
    assert as_inputs(["1x2", "m=3"]) == Inputs((InputSpec((1, 2)),), {"m": InputSpec((3,))})
    assert as_inputs(("1x2", "m=3")) == Inputs(("1x2", "m=3"))  # call arguments: values
    assert as_inputs({"a": "int64[4]"}) == Inputs((), {"a": "int64[4]"})
    assert as_inputs(Inputs((x,))).args == (x,)
    assert as_inputs([]) == as_inputs(()) == Inputs()


def test_the_api_takes_a_pair_of_positional_and_keyword_inputs() -> None:
    assert as_inputs(([1, "1x2"], {"mode": "3"})) == Inputs((1, "1x2"), {"mode": "3"})


def test_bad_grammar_is_refused_wherever_the_api_takes_a_string() -> None:
    for value in ("1xx2", ["1x2", "?"]):
        with pytest.raises(InspectError):
            as_inputs(value)


def test_a_dict_without_names_is_refused() -> None:
    with pytest.raises(InspectError, match="keyword"):
        as_inputs({1: torch.zeros(1)})


def test_a_given_tensor_is_copied_with_its_need_for_a_gradient() -> None:
    given = torch.ones(2, requires_grad=True)
    (made,), _ = materialise(as_inputs(given), LINEAR, "cpu")
    assert made.requires_grad
    assert made.is_leaf
    with torch.no_grad():
        made.zero_()
    assert given.tolist() == [1, 1]


def test_nested_containers_keep_their_types_and_other_values_pass() -> None:
    pair = namedtuple("pair", "left right")
    given = (pair(torch.zeros(1), [torch.zeros(2)]), {"k": (torch.zeros(3), "text")}, 5, None)
    made, _ = materialise(as_inputs(given), LINEAR, "meta")
    assert isinstance(made[0], pair)
    assert made[0].right[0].is_meta
    assert made[1]["k"][0].shape == (3,)
    assert made[1]["k"][1] == "text"
    assert made[2:] == (5, None)


def test_a_batch_of_one_becomes_two_and_others_stay() -> None:
    doubled = batch_of_two(parse_inputs(["1x3", "4x3", "ids=int64[1,5]", "n=int64[]"]))
    assert [spec.shape for spec in doubled.args] == [(2, 3), (4, 3)]
    assert doubled.kwargs["ids"] == InputSpec((2, 5), torch.int64)
    assert doubled.kwargs["n"].shape == ()


def test_the_first_line_of_an_error_without_text_is_its_class() -> None:
    assert first_line(ValueError()) == "ValueError"
    assert first_line(ValueError("one\ntwo")) == "one"


def test_runs_are_written_at_the_start_of_every_row_and_avoided_in_the_rest() -> None:
    spec = InputSpec((3, 50), torch.int64, below=4, runs=((2, 3), (1, 1)), never=(0,))
    (made,), _ = materialise(Inputs((spec,)), LINEAR, "cpu")
    assert made[:, :4].tolist() == [[2, 2, 2, 1]] * 3
    assert set(made[:, 4:].unique().tolist()) == {3}


def test_what_has_runs_keeps_its_values_in_a_pass_on_meta_and_nothing_else_does() -> None:
    specs = (InputSpec((1, 2), torch.int64, runs=((5, 2),)), InputSpec((1, 2)))
    (kept, moved), _ = materialise(Inputs(specs), LINEAR, "meta")
    assert kept.tolist() == [[5, 5]]
    assert moved.device.type == "meta"


def test_a_batch_of_two_keeps_runs_and_fixed_values_out_of_the_draw() -> None:
    spec = InputSpec((1, 2), torch.int64, runs=((5, 2),))
    (made,), _ = materialise(batch_of_two(Inputs((spec,))), LINEAR, "cpu")
    assert made.tolist() == [[5, 5], [5, 5]]


class Chooses(nn.Module):
    """What it computes depends on values, which meta does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[x > 0].sum()


def test_inputs_without_values_run_on_meta_alone() -> None:
    assert inspector.trace(Chooses(), "2x3").device == "cpu"
    with pytest.raises(InspectError, match="the inputs are on meta: they have no values"):
        inspector.trace(Chooses(), torch.zeros(2, 3, device="meta"))
    assert inspector.trace(nn.Linear(3, 2), torch.zeros(2, 3, device="meta")).device == "meta"
