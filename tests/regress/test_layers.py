"""Which modules explain a difference: paired by path, by shape, by the names around them."""

from __future__ import annotations

import random

import pytest

from inspector.regress.content import Layer
from inspector.regress.layers import described, moved

pytestmark = pytest.mark.once


def conv(path: str, out: int, into: int, size: int = 3, pixels: int = 100, kind: str = "Conv2d") -> Layer:
    """A convolution without bias: out x into x size x size weights, each used for every pixel."""
    weights = out * into * size * size
    return Layer(path, kind, f"{out}x{into}x{size}x{size}", 1, weights, weights * pixels)


def explained(base: list[Layer], head: list[Layer]) -> dict[str, tuple[int, int, str]]:
    found = moved(base, head)
    for metric in ("macs", "params"):  # nothing is lost, nothing counted twice
        total = sum(getattr(layer, metric) for layer in head) - sum(getattr(layer, metric) for layer in base)
        assert sum(getattr(change, metric) for change in found) == total
    return {c.path: (c.macs, c.params, described(c)) for c in found if c.macs or c.params}


def test_a_widened_layer_and_the_one_that_reads_it() -> None:
    base = [conv("a", 8, 4), conv("b", 16, 8), conv("c", 4, 16)]
    head = [conv("a", 8, 4), conv("b", 24, 8), conv("c", 4, 24)]
    # b: 8 more outputs x 8 x 9; c: 4 x 8 more inputs x 9.
    assert explained(base, head) == {
        "b": (57_600, 576, "16 to 24 channels"),
        "c": (28_800, 288, "16 to 24 input channels"),
    }


def test_a_renamed_backbone_costs_nothing_and_is_recognised() -> None:
    base = [conv(f"body.{n}.conv", 8 + n, 4) for n in range(4)]
    head = [conv(f"trunk.{n}.conv", 8 + n, 4) for n in range(4)]
    assert explained(base, head) == {}
    assert [(c.base.path, c.head.path) for c in moved(base, head) if c.base and c.head] == [
        (f"body.{n}.conv", f"trunk.{n}.conv") for n in range(4)
    ]


def test_a_layer_that_was_renamed_and_widened_is_found_by_its_neighbours() -> None:
    base = [conv(f"body.{n}.conv", 8 + n, 4) for n in range(4)]
    head = [conv(f"trunk.{n}.conv", 8 + n if n != 2 else 20, 4) for n in range(4)]
    # 10 to 20 channels: 10 x 4 x 9 = 360 weights.
    assert explained(base, head) == {
        "trunk.2.conv": (36_000, 360, "was body.2.conv, 10 to 20 channels"),
    }


def test_a_layer_put_in_front_shifts_the_indices_of_the_others_only() -> None:
    base = [conv(f"features.{n}", 8 + n, 4) for n in range(5)]
    head = [conv("features.0", 2, 4), *(conv(f"features.{n + 1}", 8 + n, 4) for n in range(5))]
    # 2 x 4 x 9 = 72 weights.
    assert explained(base, head) == {"features.0": (7_200, 72, "added: Conv2d 2x4x3x3")}


def test_a_removed_layer_is_named() -> None:
    base = [conv("a", 8, 4), conv("b", 2, 4)]
    assert explained(base, base[:1]) == {"b": (-7_200, -72, "removed: Conv2d 2x4x3x3")}


def test_the_words_for_what_changed() -> None:
    def said(base: Layer, head: Layer) -> str:
        return explained([base], [head])[head.path][2]

    assert said(conv("a", 8, 4), conv("a", 8, 4, size=5)) == "3x3 to 5x5 kernel"
    assert (
        said(conv("a", 8, 4), conv("a", 8, 4, pixels=400))
        == "same weights on another size of input or output"
    )
    transposed = "ConvTranspose2d"
    assert said(conv("a", 8, 4, kind=transposed), conv("a", 8, 6, kind=transposed)) == "4 to 6 channels"
    linear = Layer("a", "Linear", "10x5", 1, 50, 50)
    assert said(linear, Layer("a", "Linear", "12x5", 1, 60, 60)) == "10 to 12 features"
    assert (
        said(linear, Layer("a", "LazyLinear", "12x5", 1, 60, 60))
        == "Linear to LazyLinear, shape 10x5 to 12x5"
    )
    assert said(linear, linear._replace(calls=2, macs=100)) == "1 to 2 calls"


def test_sums_hold_for_any_two_models() -> None:
    draw = random.Random(0)
    for _ in range(50):
        sides = [
            [conv(f"{draw.choice('abc')}.{n}", draw.choice([8, 16]), 4) for n in range(draw.randrange(12))]
            for _ in range(2)
        ]
        explained(*sides)


def test_thousands_of_layers_are_paired_at_once() -> None:
    base = [conv(f"old.{n}", 8 + n % 7, 4) for n in range(8000)]
    head = [conv(f"new.{n}", 8 + n % 7, 4) for n in range(8000)]
    assert explained(base, head) == {}
