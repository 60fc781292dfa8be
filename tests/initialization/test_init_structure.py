"""What independent draws never show: on tensors small enough to look through by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inspector.initialization.statistics import measure
from inspector.initialization.structure import (
    Magnitudes,
    atoms,
    copies,
    one_draw,
    same_values,
    spread,
    structure,
)

pytestmark = pytest.mark.once


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flaw(tensor: Tensor) -> str:
    return structure(tensor, Magnitudes.of(measure(tensor)), tensor.dtype)


def test_slices_that_repeat_are_counted_with_their_kind() -> None:
    weight = drawn(8, 6)
    assert copies(weight, 0) == copies(weight, 1) == (0, "")
    weight[3] = weight[5]
    assert copies(weight, 0) == (1, "repeat another")
    weight[3] = -weight[5]
    assert copies(weight, 0) == (1, "are the negative of another")
    weight[3] = weight[5].flip(0)
    assert copies(weight, 0) == (1, "hold the values of another in a different order")
    assert copies(weight, 1) == (0, "")
    weight[:, 2] = 0
    assert copies(weight, 1) == (1, "are zero")


def test_a_magnitude_counts_with_both_signs() -> None:
    magnitudes = Magnitudes.of(measure(torch.tensor([-2.0, -1.0, 1.0, 2.0, 2.0, 3.0])))
    assert magnitudes.values.tolist() == [1.0, 2.0, 3.0]
    assert magnitudes.counts.tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda w: w, ""),
        (lambda w: w.flatten().sort().values.view(32, 32), "sorted along dimension 0"),  # and along 1
        (lambda w: w.flatten().sort().values.view(1, 32, 32), "sorted along dimension 1"),
        (
            lambda w: w.sort(dim=1).values,
            "along dimension 0 are alike (correlation",
        ),  # small ones on the left
        (lambda w: w[:, :16] @ w[:16], "its rank is low: 16 where 32 rows"),
        (lambda w: torch.triu(w) + torch.triu(w, 1).T, "of the magnitudes occur more than once"),
        (lambda w: w.abs() * torch.tensor([1.0, -1.0]).repeat(16), "dimension 0 are alike (correlation 0."),
    ],
)
def test_structure_is_named(change, text: str) -> None:
    assert text in flaw(change(drawn(32, 32))) if text else flaw(change(drawn(32, 32))) == ""


def test_values_that_many_elements_share_are_atoms() -> None:
    weight = drawn(32, 32)
    assert atoms(Magnitudes.of(measure(weight)), torch.float32) == ""
    weight[0, :10] = 0  # 10 of 1,024 elements: 0.98%
    assert atoms(Magnitudes.of(measure(weight)), torch.float32).startswith(
        "0.98% of the elements are exactly"
    )
    clamped = drawn(32, 32).clamp(-1, 1)
    assert atoms(Magnitudes.of(measure(clamped)), torch.float32).endswith("clamped?")


def test_rows_of_one_length_and_of_two_sizes_are_told() -> None:
    weight = drawn(128, 64)
    assert spread(weight, measure(weight)) == ""
    unit = torch.nn.functional.normalize(weight)
    assert "nearly the same length" in spread(unit, measure(unit))
    two = weight * torch.tensor([0.5, 1.5]).repeat_interleave(64)[:, None]
    assert "not of one size" in spread(two, measure(two))


def test_one_draw_is_told_whatever_its_scale_and_sign() -> None:
    first, other = drawn(64), drawn(64, seed=1)
    pairs = one_draw([first, other, -3 * first, 0.5 * other[:16]])
    assert [(i, j, round(ratio, 3)) for i, j, ratio in pairs] == [(0, 2, -3.0), (1, 3, 0.5)]


def test_the_same_values_in_another_order_are_told() -> None:
    first, other = drawn(8, 8), drawn(8, 8, seed=1)
    samples = [measure(tensor) for tensor in (first, other, first.T, -other.flip(0), drawn(8, 8, seed=2))]
    assert same_values(samples) == [(0, 2), (1, 3)]
