"""Faults that no law of single elements shows: tensors, slices and values that know of each other."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from inspector.initialization.apply import apply
from inspector.reporting.report import Finding
from tests.faults import clean, fault
from tests.faults.init.nets import applied, drawn, judged, net


def _seeded(*layers: nn.Module, scheme: str = "kaiming_uniform") -> list[Finding]:
    """The findings after the same seed before each layer."""
    for layer in layers:
        torch.manual_seed(0)
        apply(layer, scheme)
    return judged(nn.Sequential(*layers), scheme)


@fault("init", check="same_draw")
def one_seed_before_each_layer() -> list[Finding]:
    """torch.manual_seed in the loop over the layers: all start from one draw."""
    return _seeded(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 64))


@fault("init", check="same_draw")
def one_seed_before_layers_of_other_shapes() -> list[Finding]:
    """The same where shapes and bounds differ: the draw goes on further in the larger tensor."""
    return _seeded(nn.Linear(48, 64), nn.Conv2d(16, 32, 3), scheme="kaiming_normal")


@fault("init", check="same_draw")
def layer_that_was_deep_copied() -> list[Finding]:
    """nn.TransformerEncoder copies its layer: all start with the same weights."""
    layer = nn.Linear(64, 96)
    apply(layer, "xavier_uniform")
    return judged(nn.Sequential(nn.Linear(64, 96), layer, copy.deepcopy(layer))[1:], "xavier_uniform")


def _pair(change: object) -> list[Finding]:
    """A layer, and another whose weight `change` makes of the first."""
    one, other = nn.Linear(64, 64), nn.Linear(64, 64)
    apply(one, "kaiming_uniform")
    with torch.no_grad():
        other.weight.copy_(change(one.weight))  # type: ignore[operator]
    return judged(nn.Sequential(one, other), "kaiming_uniform")


@fault("init", check="same_draw")
def negated_layer() -> list[Finding]:
    """A layer that is the negative of another."""
    return _pair(torch.neg)


@fault("init", check="same_draw")
def transposed_layer() -> list[Finding]:
    """A decoder that is the encoder transposed, and not tied to it."""
    return _pair(lambda weight: weight.T)


@fault("init", check="same_draw")
def shuffled_layer() -> list[Finding]:
    """A layer that holds the rows of another in another order."""
    return _pair(lambda weight: weight[torch.randperm(64)])


def _changed(change: object, shape: tuple[int, ...] = (80, 24, 3, 3)) -> list[Finding]:
    """conv2's weight, drawn right and then changed."""
    model = net()
    with torch.no_grad():
        model.conv2.weight.copy_(change(drawn(torch.empty(shape))))  # type: ignore[operator]
    return judged(model)


def _half(weight: Tensor, second: Tensor) -> Tensor:
    return torch.cat([weight[:40], second])


@fault("init", check="copies")
def half_of_the_outputs_are_negated_copies() -> list[Finding]:
    """CReLU's mirror: the second half of the channels is the first, negated."""
    return _changed(lambda weight: _half(weight, -weight[:40]))


@fault("init", check="copies")
def flipped_kernels() -> list[Finding]:
    """Each second channel is the mirror image of the first."""
    return _changed(lambda weight: _half(weight, weight[:40].flip(-1)))


@fault("init", check="copies")
def identical_input_channels() -> list[Finding]:
    """A stem inflated from one input channel: all input channels are equal."""
    return _changed(lambda weight: weight[:, :1].expand(-1, 24, -1, -1))


@fault("init", check="copies")
def half_of_the_input_channels_repeat() -> list[Finding]:
    """Six input channels made of three by repetition."""
    return _changed(lambda weight: torch.cat([weight[:, :12], weight[:, :12]], dim=1))


@fault("init", check="copies")
def kernel_inflated_in_time() -> list[Finding]:
    """A 3-d kernel made of a 2-d one by repetition along time (I3D)."""
    layer = nn.Conv3d(8, 16, 3)
    with torch.no_grad():
        layer.weight.copy_(drawn(torch.empty(16, 8, 1, 3, 3)).expand(-1, -1, 3, -1, -1) / math.sqrt(3))
    return judged(layer, "kaiming_uniform")


@fault("init", check="copies")
def elements_in_pairs() -> list[Finding]:
    """Every element twice, in no step with the rows."""
    return _changed(lambda weight: weight.flatten()[: 40 * 216].repeat_interleave(2).roll(1).view_as(weight))


@fault("init", check="copies")
def sorted_values() -> list[Finding]:
    """The right values, sorted: linspace, or a sort that was left in."""
    return _changed(lambda weight: weight.flatten().sort().values.view_as(weight))


@fault("init", check="copies")
def each_row_is_sorted() -> list[Finding]:
    """The right values, each row sorted by itself."""
    layer = nn.Linear(64, 64)
    apply(layer, "kaiming_uniform")
    with torch.no_grad():
        layer.weight.copy_(layer.weight.sort(dim=1, descending=True).values)
    return judged(layer, "kaiming_uniform")


@fault("init", check="copies")
def interpolated_positions() -> list[Finding]:
    """A table of positions stretched to twice its length: neighbours are alike."""
    table = nn.Embedding(128, 32)
    torch.manual_seed(0)
    small = torch.randn(1, 32, 65)
    with torch.no_grad():
        wide = nn.functional.interpolate(small, 128, mode="linear", align_corners=True)[0].T
        table.weight.copy_(0.02 * wide / wide.std())
    return judged(table, "normal", layers=[""])


@fault("init", check="copies")
def weight_of_low_rank() -> list[Finding]:
    """A product of two thin factors, with the right standard deviation."""
    layer = nn.Linear(64, 64)
    torch.manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(64, 32) @ torch.randn(32, 64) / math.sqrt(32) * 0.02)
    return judged(layer, "normal")


@fault("init", check="spread")
def rows_of_unit_length() -> list[Finding]:
    """Each row is normalised after the draw, then scaled to the right standard deviation."""
    layer = nn.Linear(256, 128)
    apply(layer, "kaiming_normal")
    with torch.no_grad():
        layer.weight.copy_(nn.functional.normalize(layer.weight, dim=1) * math.sqrt(2))
    return judged(layer, "kaiming_normal")


@fault("init", check="spread")
def two_groups_of_one_average() -> list[Finding]:
    """Half of the channels 8% too large, half 8% too small."""
    return _changed(lambda weight: 0.9968 * torch.cat([1.08 * weight[:40], 0.92 * weight[40:]]) / 1.0)


@fault("init", check="copies")
def quasi_random_values() -> list[Finding]:
    """Values of a low-discrepancy sequence, shuffled: no law of single elements objects."""
    bound = math.sqrt(3 / 216)
    golden = torch.arange(17280, dtype=torch.float64) * 0.6180339887498949 % 1
    return _changed(lambda weight: (bound * (2 * golden - 1))[torch.randperm(17280)].view_as(weight))


@fault("init", check="copies")
def symmetric_matrix() -> list[Finding]:
    """W equals its transpose."""
    layer = nn.Linear(64, 64)
    apply(layer, "normal")
    with torch.no_grad():
        layer.weight.copy_(torch.triu(layer.weight) + torch.triu(layer.weight, 1).T)
    return judged(layer, "normal")


@fault("init", check="copies")
def signs_by_row() -> list[Finding]:
    """Every output has inputs of one sign."""
    return _changed(lambda weight: weight.abs() * torch.randn(80, 1, 1, 1).sign())


@fault("init", check="copies")
def circulant_matrix() -> list[Finding]:
    """Each row is the row before, shifted by one."""
    layer = nn.Linear(64, 64)
    torch.manual_seed(0)
    row = 0.02 * torch.randn(64)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([row.roll(i) for i in range(64)]))
    return judged(layer, "normal")


@fault("init", check="same_draw")
def biases_of_one_seed() -> list[Finding]:
    """Only the biases start from one seed."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    for layer in model:
        torch.manual_seed(7)
        nn.init.uniform_(layer.bias, -0.125, 0.125)
    return judged(model, "default")


@fault("init", check="atoms")
def one_percent_is_pruned() -> list[Finding]:
    """One element in a hundred is exactly zero."""
    return _changed(lambda weight: weight * (torch.rand(weight.shape) > 0.01))


@fault("init", check="atoms")
def weight_from_eight_bits() -> list[Finding]:
    """Quantised to int8 and back: 255 levels."""
    bound = 1 / math.sqrt(72)
    return _changed(lambda weight: (weight * 127 / bound).round() * bound / 127)


@fault("init", check="outliers")
def one_element_is_an_outlier() -> list[Finding]:
    """A single element 1.6% beyond the bound."""
    model = net()
    with torch.no_grad():
        model.conv2.weight[7, 5, 1, 1] = 1.016 * math.sqrt(3 / 216)
    return judged(model)


@fault("init", check="outliers")
def few_elements_are_outliers() -> list[Finding]:
    """Three elements of a normal law at twelve standard deviations."""
    model = net("kaiming_normal")
    with torch.no_grad():
        model.conv2.weight[:3, 0, 0, 0] = 12 * math.sqrt(2 / 216)
    return judged(model, "kaiming_normal")


@fault("init", check="padding")
def padding_row_was_overwritten() -> list[Finding]:
    """normal_ on the whole table of an embedding with a padding row."""
    table = nn.Embedding(100, 32, padding_idx=3)
    torch.manual_seed(0)
    nn.init.normal_(table.weight, std=0.02)
    return judged(table, "normal", layers=[""])


@clean("init", "same_draw")
def twins_in_shape_only() -> list[Finding]:
    """Twenty layers of one shape, biases drawn too, from one generator."""
    return applied(nn.Sequential(*(nn.Linear(32, 32) for _ in range(20))), "default")


@clean("init", "same_draw")
def embedding_with_padding() -> list[Finding]:
    """A padding row in the middle, and from the end: zero after our own initialisation too."""
    tables = nn.Sequential(nn.Embedding(100, 32, padding_idx=3), nn.EmbeddingBag(50, 16, padding_idx=-1))
    return [f for std in (0.02, 1.0) for f in applied(tables, "normal", layers=["0", "1"], std=std)]


@clean("init", "same_draw")
def small_and_coarse() -> list[Finding]:
    """Tensors so small, and of so few bits, that values meet by chance."""
    layers = [nn.Linear(4, 4), nn.Linear(24, 24), nn.Conv2d(4, 6, 1), nn.Conv1d(1, 8, 3)] * 4
    found = []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        model = nn.Sequential(*map(copy.deepcopy, layers)).to(dtype)
        found += [f for scheme in ("kaiming_uniform", "normal") for f in applied(model, scheme)]
    return found
