"""Values on meta that follow from sizes, or from what stayed on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.models.inputs import Inputs, InputSpec
from inspector.models.python import from_module
from inspector.profiling.run import trace
from inspector.tracing.capture import ForwardError


class Net(nn.Module):
    """A layer of 4 to 4 and, besides, what a test wants done."""

    def __init__(self, work: Callable[..., Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)
        self.work = work

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        return self.work(self.layer, x, *more)


def macs(work: Callable[..., Tensor], *inputs: Any) -> int:
    """On meta; the CPU must say the same."""
    chosen = Inputs((InputSpec((3, 4)), *inputs))
    counts = [
        inspector.profile(from_module(Net(work)), chosen, device=device).metrics["macs"].value
        for device in ("meta", "cpu")
    ]
    assert counts[0] == counts[1]
    return counts[0]


def test_a_branch_on_a_mask_of_ones() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        mask = torch.ones(3, 4, device=x.device)
        return layer(x) if mask.all() else layer(layer(x))

    assert macs(work) == 3 * 4 * 4


def test_a_loop_over_a_number_of_rows() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        for _ in range(torch.full((2,), x.shape[0], device=x.device).sum().item()):
            x = layer(x)
        return x

    assert macs(work) == (3 + 3) * 3 * 4 * 4


def test_a_list_of_sizes() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x.split(torch.arange(1, 3, device=x.device).tolist())[1])  # 1 and 2 rows

    assert macs(work) == 2 * 4 * 4


def test_rows_under_a_mask() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x[torch.arange(3, device=x.device) > 0])  # two of three

    assert macs(work) == 2 * 4 * 4


def test_rows_written_under_a_mask() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        mask = torch.arange(3, device=x.device) > 0
        y[mask] = layer(x[mask])
        return y

    assert macs(work) == 2 * 4 * 4


def test_places_that_nonzero_finds() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x[torch.eye(3, device=x.device).nonzero()[:, 0]])

    assert macs(work) == 3 * 4 * 4


IDS = InputSpec((1, 5), torch.int64, below=9, runs=((7, 2), (8, 1)), never=(0,))


def test_an_input_with_runs_is_read_on_meta() -> None:
    def work(layer: nn.Module, x: Tensor, ids: Tensor) -> Tensor:
        for _ in range((ids.to(x.device) == 7).sum().item()):  # two, and none in the rest
            x = layer(x)
        return x

    assert macs(work, IDS) == 2 * 3 * 4 * 4


def test_an_input_that_keeps_its_values_takes_memory_on_the_device_of_the_pass() -> None:
    chosen = Inputs((InputSpec((3, 4)), IDS))
    counted = trace(from_module(Net(lambda layer, x, ids: layer(x))), chosen, device="meta")
    held = [one for one in counted.storages if one.role == "input"]
    assert sorted((one.nbytes, one.device) for one in held) == [(5 * 8, "meta"), (3 * 4 * 4, "meta")]


class Patches(nn.Module):
    """An image in four patches of 2x2, and the place of each, which is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 4, 2, stride=2)
        self.places = nn.Parameter(torch.zeros(4, 2, 2))

    def forward(self, image: Tensor) -> Tensor:
        image = image[(image != 0).any(dim=(1, 2, 3))]  # without empty ones
        return self.cut(image) + self.places


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_an_image_that_keeps_its_values_is_trained_on(device: str) -> None:
    """4 channels of 2x2 patches sum 3 channels of 2x2 pixels each; again for the gradient of the weight."""
    image = Inputs((InputSpec((1, 3, 4, 4), below=2, runs=((1, 4),)),))
    counted = inspector.profile(from_module(Patches()), image, phase="train", device=device)
    assert counted.metrics["macs"].value == 2 * (4 * 2 * 2) * (3 * 2 * 2)


def test_what_was_written_before_counts_and_what_comes_after_does_not() -> None:
    def work(layer: nn.Module, x: Tensor, ids: Tensor) -> Tensor:
        ids[:, 0] = 8
        moved = ids.to(x.device) * 1
        ids[:, 1] = 8
        for _ in range((moved == 7).sum().item()):  # one: only the first was written before
            x = layer(x)
        return x

    assert macs(work, IDS) == 3 * 4 * 4


def test_consecutive_values_and_their_cost() -> None:
    def work(layer: nn.Module, x: Tensor, ids: Tensor) -> Tensor:
        return layer(x[: torch.unique_consecutive(ids.to(x.device)[0, :3]).numel()])  # 7 7 8

    assert macs(work, IDS) == 2 * 4 * 4


def test_a_check_of_values_that_nobody_knows_is_taken_to_hold() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        torch._check_tensor_all(x < 100)
        return layer(x)

    assert macs(work) == 3 * 4 * 4


def test_a_check_of_values_that_are_known_still_fails() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        torch._check_tensor_all(torch.zeros(3, device=x.device) > 1)
        return layer(x)

    with pytest.raises(ForwardError):
        inspector.profile(from_module(Net(work)), "3x4", device="meta")


@pytest.mark.parametrize(
    "unknown",
    [lambda x: x.sum() > 0, lambda x: torch.rand(3, device=x.device).sum() > 1],
)
def test_values_that_nothing_tells_are_not_made_up(unknown: Callable[[Tensor], Tensor]) -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x) if unknown(x) else x

    with pytest.raises(ForwardError):
        inspector.profile(from_module(Net(work)), "3x4", device="meta")
    assert inspector.profile(from_module(Net(work)), "3x4").subject["device"] == "cpu"


def test_parameters_on_meta_have_no_values() -> None:
    def work(layer: Any, x: Tensor) -> Tensor:
        return layer(x) if (layer.weight * 0).sum().item() == 0 else x

    with pytest.raises(ForwardError):
        inspector.profile(from_module(Net(work)), "3x4", device="meta")


def test_the_gradient_of_a_masked_scatter_is_known() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        mask = torch.arange(3, device=x.device)[:, None].expand(3, 4) > 0
        return x.masked_scatter(mask, layer(x)[:2])

    report = inspector.profile(from_module(Net(work)), "3x4", phase="train")
    assert report.metrics["unknown_ops"].value == 0


def test_numbers_that_a_model_writes() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        ends = torch.tensor([2, 9], device=x.device)
        return layer(x) if torch.isin(torch.as_tensor(9, device=x.device), ends) else x

    assert macs(work) == 3 * 4 * 4


def test_tensors_in_a_list_of_numbers_are_not_made_up() -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x) if torch.tensor([x[0, 0], 1.0], device=x.device).sum() > 0 else x

    with pytest.raises(ForwardError):
        inspector.profile(from_module(Net(work)), "3x4", device="meta")


@pytest.mark.parametrize("in_place", [False, True])
def test_a_loop_that_counts_down(in_place: bool) -> None:
    def work(layer: nn.Module, x: Tensor) -> Tensor:
        left = torch.tensor([4, 5], device=x.device)
        while left.max() > 0:
            x = layer(x)
            left = left.sub_(1) if in_place else left - 1
        return x

    assert macs(work) == 5 * 3 * 4 * 4


def test_a_loop_reads_in_each_turn_what_the_turn_before_left() -> None:
    """The copy that a turn keeps is that of its own time, and earlier values are still those."""

    def work(layer: nn.Module, x: Tensor) -> Tensor:
        left = torch.tensor(2, device=x.device)
        early, other = left * 3, left + 0
        while left > 0:
            other += left  # 2, then 1
            left -= 1
        for _ in range(early.item() + other.item()):  # 6, and 2 + 2 + 1
            x = layer(x)
        return x

    assert macs(work) == 11 * 3 * 4 * 4


class Reader(nn.Module):
    """Goes on as long as its tokens say."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, bias=False)

    def read(self, x: Tensor, ids: Tensor) -> Tensor:
        for _ in range((ids == 7).sum().item()):
            x = self.layer(x)
        return x


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_method_reads_the_tokens_that_it_is_given(device: str) -> None:
    inputs = {"x": torch.randn(3, 4), "ids": torch.tensor([7, 1, 7, 7])}
    counted = trace(Reader(), inputs, call="read", device=device)
    assert sum(op.macs or 0 for op in counted.ops) == 3 * 3 * 4 * 4


def test_an_input_without_values_does_not_take_those_of_others() -> None:
    inputs = {"x": torch.empty(3, 4, device="meta"), "ids": torch.tensor([7, 1, 7])}
    counted = trace(Reader(), inputs, call="read")
    assert counted.device == "meta"
    assert sum(op.macs or 0 for op in counted.ops) == 2 * 3 * 4 * 4
