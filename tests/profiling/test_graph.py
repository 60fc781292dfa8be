"""The architecture as a graph: edges are those of the code that is written here, or there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.profiling.charts import architecture
from inspector.profiling.views.architecture import EDGES, NODES, architecture_frames
from inspector.profiling.views.folding import IN, OUT, Scope
from inspector.profiling.views.graph import graph

X = "2x6"


def scope(model: nn.Module, inputs: Any = X, **how: Any) -> Scope:
    found = graph(inspector.trace(model, inputs, **how))
    assert found is not None
    return found


def names(of: Scope) -> list[str]:
    return [node.path.rpartition(".")[2] or "+".join(node.operators) for node in of.nodes]


def edges(of: Scope) -> set[tuple[str, str, str]]:
    """Each edge with the names of its ends; `in` and `out` are the scope's own."""
    called = dict(enumerate(names(of))) | {IN: "in", OUT: "out"}
    return {
        (called[wire.source], called[target], "?" if shape is None else "x".join(map(str, shape)))
        for wire in of.wires
        for target, shape in wire.targets.items()
    }


def linear(into: int = 6, out: int = 6) -> nn.Linear:
    return nn.Linear(into, out, bias=False)


class Residual(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.a, self.act, self.b = linear(6, 8), nn.ReLU(inplace=in_place), linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(self.act(self.a(x)))
        if self.in_place:
            y += x
            return y
        return y + x


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_residual_connection_is_an_edge(in_place: bool, device: str) -> None:
    found = scope(nn.Sequential(Residual(in_place), linear()), device=device)
    assert names(found) == ["0", "1"]
    assert edges(found) == {("in", "0", "2x6"), ("0", "1", "2x6"), ("1", "out", "2x6")}
    inside = found.nodes[0].inside
    assert inside is not None
    add = "add_" if in_place else "add"
    assert edges(inside) == {
        ("in", "a", "2x6"), ("a", "act", "2x8"), ("act", "b", "2x8"), ("b", add, "2x6"), ("in", add, "2x6"),
        (add, "out", "2x6"),
    }  # fmt: skip


def test_a_module_that_is_called_twice_is_two_nodes() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act = linear(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.a(self.act(x)))

    found = scope(Twice())
    assert names(found) == ["act", "a", "act"]
    assert [(wire.source, set(wire.targets)) for wire in found.wires] == [
        (IN, {0}),
        (0, {1}),
        (1, {2}),
        (2, {OUT}),
    ]


def test_a_branch_goes_past_what_does_not_read_it() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right, self.join = linear(), linear(6, 3), linear(6, 4), linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.join(torch.cat([self.left(x), self.right(x)], 1))

    assert edges(scope(Branches())) == {
        ("in", "stem", "2x6"), ("stem", "left", "2x6"), ("stem", "right", "2x6"), ("left", "cat", "2x3"),
        ("right", "cat", "2x4"), ("cat", "join", "2x7"), ("join", "out", "2x2"),
    }  # fmt: skip


def test_a_tensor_keeps_its_maker_through_views_and_modules_that_do_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Identity(), nn.Dropout(0.5), nn.Flatten(), linear(8, 3))
    found = scope(model, "1x1x4x4")
    assert names(found) == ["0", "4"]
    assert edges(found) == {
        ("in", "0", "1x1x4x4"), ("0", "4", "1x8"), ("4", "out", "1x3"),
    }  # fmt: skip


def test_the_shape_of_an_edge_is_that_at_the_module_not_inside_it() -> None:
    # What leaves the model was a 6x4 before it was a 2x3x4: which of them was returned is not recorded.
    found = scope(
        nn.Sequential(linear(6, 5), linear(5, 4)), "2x3x6"
    )  # a product of 6x6 matrices, then a view
    assert edges(found) == {("in", "0", "2x3x6"), ("0", "1", "2x3x5"), ("1", "out", "?")}


class Cross(nn.Module):
    """Two modules write halves of one tensor, a third reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high, self.read = Fill(0), Fill(3), linear()

    def forward(self, x: Tensor) -> Tensor:
        whole = torch.empty_like(x)
        self.low(whole, x)
        self.high(whole, x)
        return self.read(whole)


class Fill(nn.Module):
    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def forward(self, whole: Tensor, x: Tensor) -> Tensor:
        whole[:, self.start : self.start + 3] = x[:, :3]
        return whole


def test_a_tensor_written_in_pieces_has_no_edge_and_is_counted() -> None:
    found = scope(Cross())
    assert names(found) == ["empty_like", "low", "high", "read"]
    assert edges(found) == {("in", "low", "2x6"), ("in", "high", "2x6"), ("read", "out", "2x6")}
    assert found.unclear == 1  # what `read` reads
    frames = architecture_frames(inspector.trace(Cross(), X))
    assert frames is not None
    assert "1 reading of tensors" in architecture(inspector.trace(Cross(), X), frames, "").note


def test_a_tensor_that_is_overwritten_whole_has_one_maker() -> None:
    class Over(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = linear(), linear(), linear()

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            y.copy_(self.b(x))
            return self.c(y)

    found = scope(Over())
    assert edges(found) == {
        ("in", "a", "2x6"),
        ("in", "b", "2x6"),
        ("b", "copy_", "2x6"),
        ("copy_", "c", "2x6"),
        ("c", "out", "2x6"),
    }
    assert found.unclear == 0


def test_an_input_is_followed_into_the_scopes_that_read_it() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.block = linear(), nn.Bilinear(6, 6, 4, bias=False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.block(self.a(x), y)

    assert edges(scope(Two(), [X, X])) == {
        ("in", "a", "2x6"), ("a", "block", "2x6"), ("in", "block", "2x6"), ("block", "out", "2x4"),
    }  # fmt: skip


# Equal blocks.


def test_equal_blocks_in_a_row_are_one_node() -> None:
    found = scope(nn.Sequential(linear(6, 4), *[nn.Sequential(linear(4, 4), nn.ReLU()) for _ in range(5)]), X)
    assert [(node.path, node.times, node.last) for node in found.nodes] == [("0", 1, ""), ("1", 5, "5")]
    assert edges(found) == {("in", "0", "2x6"), ("0", "1", "2x4"), ("1", "out", "2x4")}
    assert found.nodes[1].inside is not None
    assert names(found.nodes[1].inside) == ["0", "1"]


def test_blocks_of_other_shapes_or_types_are_not_equal() -> None:
    wider = nn.Sequential(linear(6, 6), linear(6, 8), linear(8, 8), nn.ReLU(), nn.ReLU())
    assert [(node.path, node.times) for node in scope(wider).nodes] == [
        ("0", 1),
        ("1", 1),
        ("2", 1),
        ("3", 2),
    ]


def test_blocks_that_all_read_one_more_tensor_are_one_node() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = linear()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.a(x) * mask

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.sigmoid(x)
            for layer in self.layers:
                x = layer(x, mask)
            return x

    found = scope(Masked())
    assert [(name, node.times) for name, node in zip(names(found), found.nodes)] == [("sigmoid", 1), ("0", 4)]
    assert edges(found) == {
        ("in", "sigmoid", "2x6"), ("in", "0", "2x6"), ("sigmoid", "0", "2x6"), ("0", "out", "2x6"),
    }  # fmt: skip


def test_blocks_whose_outputs_are_read_later_stay_apart() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = linear(), linear(), linear()

        def forward(self, x: Tensor) -> Tensor:
            one = self.a(x)
            return self.c(self.b(one)) + one

    found = scope(Skips())
    # All three are equal. The output of b is read by c alone, that of a by the sum, too.
    assert [(name, node.times) for name, node in zip(names(found), found.nodes)] == [
        ("a", 1), ("b", 2), ("add", 1),
    ]  # fmt: skip
    assert edges(found) == {
        ("in", "a", "2x6"), ("a", "b", "2x6"), ("a", "add", "2x6"), ("b", "add", "2x6"),
        ("add", "out", "2x6"),
    }  # fmt: skip


def test_a_chain_of_operators_is_one_node() -> None:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x).neg().exp() + x

    found = scope(nn.Sequential(linear(), nn.Sequential(Chain(), linear())))
    inside = found.nodes[1].inside
    assert inside is not None
    assert names(inside) == ["0", "1"]
    assert inside.nodes[0].inside is None  # it calls no module: a leaf

    class Around(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.a = linear()

        def forward(self, x: Tensor) -> Tensor:
            return self.a(super().forward(x))

    assert names(scope(Around())) == ["relu+neg+exp", "add", "a"]


# Whole models.


def test_the_blocks_of_a_resnet_are_as_in_its_paper() -> None:
    found = scope("resnet50", None)  # type: ignore[arg-type]
    assert [node.times for layer in found.nodes[4:8] for node in layer.inside.nodes] == [
        1,
        2,
        1,
        3,
        1,
        5,
        1,
        2,
    ]  # type: ignore[union-attr]
    first = found.nodes[4].inside.nodes[0].inside  # type: ignore[union-attr]
    assert first is not None
    assert {edge for edge in edges(first) if "add_" in edge[:2]} == {
        ("bn3", "add_", "1x256x56x56"), ("downsample", "add_", "1x256x56x56"),
        ("add_", "relu", "1x256x56x56"),
    }  # fmt: skip
    assert {("in", "conv1", "1x64x56x56"), ("in", "downsample", "1x64x56x56")} <= edges(first)
    plain = found.nodes[4].inside.nodes[1].inside  # type: ignore[union-attr]
    assert plain is not None
    assert ("in", "add_", "1x256x56x56") in edges(plain)


def test_a_vision_transformer_has_twelve_equal_layers_of_two_residuals() -> None:
    found = scope("vit_b_16", None)  # type: ignore[arg-type]
    assert edges(found) == {
        ("in", "conv_proj", "1x3x224x224"), ("conv_proj", "cat", "1x196x768"),
        ("cat", "encoder", "1x197x768"), ("encoder", "heads", "1x768"), ("heads", "out", "1x1000"),
    }  # fmt: skip
    layers = found.nodes[2].inside.nodes[1].inside  # type: ignore[union-attr]
    assert layers is not None
    (layer,) = layers.nodes
    assert (layer.times, layer.last) == (12, "encoder.layers.encoder_layer_11")
    assert layer.inside is not None
    wires = [(wire.source, set(wire.targets)) for wire in layer.inside.wires]
    # 0 ln_1, 1 attention, 2 add, 3 ln_2, 4 mlp, 5 add
    assert wires == [(IN, {0, 2}), (0, {1}), (1, {2}), (2, {3, 5}), (3, {4}), (4, {5}), (5, {OUT})]


def test_the_backward_is_no_part_of_it() -> None:
    model = nn.Sequential(linear(), nn.ReLU())
    forward, train = (architecture_frames(inspector.trace(model, X, phase=p)) for p in ("forward", "train"))
    assert forward is not None
    assert train is not None
    assert forward.edges == train.edges
    assert forward.nodes["macs"] == train.nodes["macs"] == [2 * 36, 0]


def test_the_tables_hold_the_work_of_each_node_and_say_what_is_unknown() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.histogram(x, 4)[0].sum()

    frames = architecture_frames(inspector.trace(nn.Sequential(linear(), Odd()), X, device="cpu"))
    assert frames is not None
    nodes, links, unclear = frames
    assert unclear == 0
    assert (tuple(nodes.columns), tuple(links.columns)) == (NODES, EDGES)
    assert nodes["kind"] == ["linear", "other"]
    assert nodes["macs"] == [2 * 36, None]  # two rows of 6 x 6; a histogram has no formula
    assert nodes["params"] == [36, 0]


def test_a_record_without_calls_has_no_graph() -> None:
    from dataclasses import replace

    assert architecture_frames(replace(inspector.trace(linear(), X), runs=())) is None


def test_blocks_that_also_leave_something_to_the_caller_are_one_node() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.keys = linear(), linear(6, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.keys(x)

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = nn.ModuleList(Layer() for _ in range(3)), linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            kept = []
            for layer in self.layers:
                x, keys = layer(x)
                kept.append(keys)
            return self.head(x), kept

    found = scope(Cached())
    assert [node.times for node in found.nodes] == [3, 1]
    assert sorted((wire.source, *wire.targets.items()) for wire in found.wires) == [
        (IN, (0, (2, 6))), (0, (OUT, (2, 3))), (0, (1, (2, 6))), (1, (OUT, (2, 2))),
    ]  # fmt: skip


def test_attention_is_one_node_whatever_torch_makes_of_it() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (linear() for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.o(
                nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True)
            )

    found = scope(Attend(), "1x5x6")
    assert names(found) == ["q", "k", "v", "scaled_dot_product_attention", "o"]
    attention = found.nodes[3].operators[0]
    assert {edge for edge in edges(found) if edge[1] == attention} == {
        (name, attention, "1x5x6") for name in ("q", "k", "v")
    }
    assert (attention, "o", "1x5x6") in edges(found)


def test_blocks_that_read_other_tensors_stay_apart() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = linear()

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.a(x) * mask

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            masks = [torch.sigmoid(x), torch.tanh(x)]
            for number, layer in enumerate(self.layers):
                x = layer(x, masks[number // 3])
            return x

    found = scope(Masked())
    assert [(name, node.times) for name, node in zip(names(found), found.nodes)] == [
        ("sigmoid", 1), ("tanh", 1), ("0", 3), ("3", 1),
    ]  # fmt: skip


def test_an_operator_that_others_read_too_is_no_part_of_a_chain() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = linear()

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(x)
            return self.a(y.neg() + y)

    found = scope(Fork())
    assert names(found) == ["relu", "neg", "add", "a"]
    assert ("relu", "add", "2x6") in edges(found)


def test_what_leaves_a_block_has_the_shape_in_which_it_arrives_outside() -> None:
    found = scope(nn.Sequential(nn.Sequential(nn.ReLU(), linear(6, 5)), nn.ReLU()), "2x3x6")
    inside = found.nodes[0].inside
    assert inside is not None
    assert ("1", "out", "2x3x5") in edges(inside)  # and not the 6x5 that it was first
