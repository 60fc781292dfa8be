"""Which modules explain a difference: paired by path, by shape, by the names around them."""

from __future__ import annotations

import random

import pytest

from inspector.regress.causes import grouped
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


def norm(path: str, size: int) -> Layer:
    """A weight and a bias of each channel."""
    return Layer(path, "BatchNorm2d", str(size), 1, 2 * size, 0)


def linear(path: str, out: int, into: int, kind: str = "Linear") -> Layer:
    return Layer(
        path, kind, f"{out}x{into}" if kind != "Conv1D" else f"{into}x{out}", 1, out * into, out * into
    )


def folded(base: list[Layer], head: list[Layer]) -> list[tuple[str, str, int, int]]:
    groups = grouped(moved(base, head))
    paths = [c.path for group in groups for c in (*group.causes, *group.followers)]
    changed = [change for change in moved(base, head) if change.macs or change.params]
    assert sorted(paths) == sorted(change.path for change in changed)  # each once, none lost
    assert sum(group.macs for group in groups) == sum(change.macs for change in changed)
    assert sum(group.params for group in groups) == sum(change.params for change in changed)
    return [(group.name, group.what, group.macs, group.params) for group in groups]


class TestCauses:
    def test_a_widened_layer_and_all_that_read_it_are_one_line(self) -> None:
        def net(width: int) -> list[Layer]:
            readers = [conv(f"branch{n}", 4, width, size=1) for n in range(10)]
            return [
                conv("stem", 4, 3),
                conv("wide", width, 4),
                norm("bn", width),
                *readers,
                conv("last", 2, 4),
            ]

        # 8 more channels: the layer 8 x 4 x 9 weights, the norm 2 x 8, each of ten readers 4 x 8; 100 pixels.
        assert folded(net(8), net(16)) == [
            ("wide", "8 to 16 channels, 11 layers follow", 100 * (288 + 320), 288 + 16 + 320)
        ]

    def test_a_reader_of_other_sizes_does_not_follow(self) -> None:
        base = [conv("wide", 8, 4), conv("reads", 4, 8), conv("concatenated", 4, 20)]
        head = [conv("wide", 16, 4), conv("reads", 4, 16), conv("concatenated", 4, 28)]
        assert [line[:2] for line in folded(base, head)] == [
            ("wide", "8 to 16 channels, 1 layer follows"),
            ("concatenated", "20 to 28 input channels"),
        ]

    def test_what_comes_before_a_widened_layer_does_not_follow_it(self) -> None:
        base = [linear("patches", 4, 8), conv("wide", 8, 4)]
        head = [linear("patches", 4, 16), conv("wide", 16, 4)]
        assert [line[0] for line in folded(base, head)] == ["wide", "patches"]

    @pytest.mark.parametrize(
        "reader",
        [conv("reads", 4, 16, size=1), conv("reads", 6, 16), conv("reads", 4, 16, pixels=400)],
        ids=["kernel", "outputs", "pixels"],
    )
    def test_what_changed_in_another_way_too_does_not_follow(self, reader: Layer) -> None:
        base = [conv("wide", 8, 4), conv("reads", 4, 8)]
        lines = folded(base, [conv("wide", 16, 4), reader])
        assert sorted(line[0] for line in lines) == ["reads", "wide"]

    def test_layers_widened_alike_are_one_line_with_what_follows_any_of_them(self) -> None:
        def net(width: int) -> list[Layer]:
            return [
                layer
                for n in range(3)
                for layer in (
                    conv(f"{n}.a", width, 32),
                    conv(f"{n}.b", width, width),
                    conv(f"{n}.c", 32, width),
                )
            ]

        # Of 8 to 16 channels, with 9 weights each: a 8 x 32, b 16 x 16 - 8 x 8, c 32 x 8; three times.
        weights = 3 * 9 * (256 + 192 + 256)
        assert folded(net(8), net(16)) == [
            ("0.a and 5 more", "8 to 16 channels, 3 layers follow", 100 * weights, weights)
        ]

    def test_a_linear_after_a_flattening_follows_the_channels(self) -> None:
        base = [conv("wide", 8, 4), linear("head", 10, 8 * 49)]
        head = [conv("wide", 16, 4), linear("head", 10, 16 * 49)]
        assert [line[:2] for line in folded(base, head)] == [("wide", "8 to 16 channels, 1 layer follows")]
        # With two that fit, 8 x 49 being 4 x 98, none is certain.
        base, head = [conv("a", 4, 3), *base], [conv("a", 8, 3), *head]
        assert [line[0] for line in folded(base, head)] == ["wide", "a", "head"]
        # Nor where fewer pixels are left.
        base = [conv("wide", 8, 4), linear("head", 10, 8 * 49)]
        head = [conv("wide", 16, 4), linear("head", 10, 16 * 36)]
        assert len(folded(base, head)) == 2

    def test_a_wider_transformer_is_a_line_for_each_width(self) -> None:
        def net(width: int) -> list[Layer]:
            blocks = [
                layer
                for n in range(12)
                for layer in (
                    Layer(f"h.{n}.norm", "LayerNorm", str(width), 1, 2 * width, 0),
                    linear(f"h.{n}.qkv", 3 * width, width, "Conv1D"),
                    linear(f"h.{n}.proj", width, width, "Conv1D"),
                    linear(f"h.{n}.up", 4 * width, width, "Conv1D"),
                    linear(f"h.{n}.down", width, 4 * width, "Conv1D"),
                )
            ]
            tokens = Layer("tokens", "Embedding", f"1000x{width}", 1, 1000 * width, 0)
            return [tokens, *blocks, linear("head", 7, width)]

        lines = folded(net(8), net(16))
        assert [(name, what) for name, what, _, _ in lines] == [
            # the embedding, 12 x proj and down; the norms and the head read the same
            ("tokens and 24 more", "8 to 16 features, 13 layers follow"),
            ("h.0.up and 11 more", "32 to 64 features, 8 to 16 input features"),
            ("h.0.qkv and 11 more", "24 to 48 features, 8 to 16 input features"),
        ]

    def test_other_changes_that_are_alike_are_one_line(self) -> None:
        base = [conv(f"{n}", 8 + n, 4) for n in range(3)]
        larger = [conv(f"{n}", 8 + n, 4, size=5) for n in range(3)]
        assert [line[:2] for line in folded(base, larger)] == [("0 and 2 more", "3x3 to 5x5 kernel")]
        more = [conv(f"{n}", 8 + n, 4, pixels=400) for n in range(3)]
        assert folded(base, more)[0][1] == "same weights on another size of input or output"

    def test_added_and_removed_blocks_are_one_line(self) -> None:
        def block(n: int) -> list[Layer]:
            return [conv(f"blocks.{n}.a", 8, 4), norm(f"blocks.{n}.n", 8), conv(f"blocks.{n}.b", 4, 8)]

        two, five = ([conv("stem", 4, 3), *(one for n in range(many) for one in block(n))] for many in (2, 5))
        weights = 3 * (9 * 32 * 2 + 16)
        assert folded(two, five) == [("blocks.2 and 2 more", "added: 9 layers", 3 * 57_600, weights)]
        assert folded(five, two) == [("blocks.2 and 2 more", "removed: 9 layers", -3 * 57_600, -weights)]
        # One layer in a block that stays is itself.
        assert folded(two, [*two, conv("blocks.1.c", 2, 4)])[0][:2] == ("blocks.1.c", "added: Conv2d 2x4x3x3")

    def test_nothing_is_lost_and_nothing_counted_twice(self) -> None:
        draw = random.Random(1)
        for _ in range(100):
            sides = [
                [
                    conv(
                        f"{draw.choice('ab')}.{n}.{draw.choice('xy')}",
                        draw.choice([4, 8]),
                        draw.choice([4, 8]),
                    )
                    for n in range(draw.randrange(12))
                ]
                for _ in range(2)
            ]
            folded(*sides)

    def test_a_recurrent_layer_writes_a_gates_part_of_its_rows(self) -> None:
        def net(width: int) -> list[Layer]:
            tokens = Layer("tokens", "Embedding", f"100x{width}", 1, 100 * width, 0)
            lstm = Layer("lstm", "LSTM", f"{4 * width}x{width}", 1, 8 * width * width, 8 * width * width)
            return [tokens, lstm, linear("head", 7, width)]

        assert [line[:2] for line in folded(net(8), net(16))] == [
            ("tokens and 1 more", "8 to 16 channels or features, 1 layer follows")
        ]

    def test_nothing_follows_past_a_module_that_nobody_knows(self) -> None:
        def net(width: int) -> list[Layer]:
            own = Layer("own", "MyMixer", f"{width}x{width}", 1, width * width, width * width)
            before, after = linear("before", 7, width), linear("after", 7, width)
            return [linear("wide", width, 4), before, own, after]

        # `after` may read `wide` or `own`.
        assert [line[:2] for line in folded(net(8), net(16))] == [
            ("own", "shape 8x8 to 16x16"),
            ("wide", "8 to 16 features, 1 layer follows"),
            ("after", "8 to 16 input features"),
        ]
