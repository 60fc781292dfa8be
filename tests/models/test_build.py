"""Building on meta: no memory, and the same model as on the CPU."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy
import psutil
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import inspector
from inspector.core.errors import InspectError
from inspector.models import Recipe, resolve
from inspector.models.build import available_bytes, build, out_of_memory
from inspector.tracing.capture.state import state_entries


def on_meta(model: nn.Module) -> bool:
    return all(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


class Schedules(nn.Module):
    """Reads values of factories while it is built, as RegNet and timm's drop-path do."""

    def __init__(self) -> None:
        super().__init__()
        widths = torch.arange(8, 32, 8).tolist()
        self.rates = [x.item() for x in torch.linspace(0, 0.5, 3)]
        self.layers = nn.ModuleList(nn.Linear(width, width) for width in widths)


class Reads(nn.Module):
    """Reads what an allocating factory made."""

    def __init__(self) -> None:
        super().__init__()
        self.width = int(torch.ones(4).sum().item())
        self.layer = nn.Linear(self.width, 2)


class Joins(nn.Module):
    """Arithmetic on what has values on meta (arange) and what has none (zeros), as rotary tables do it."""

    def __init__(self) -> None:
        super().__init__()
        rates = torch.cat((torch.arange(4.0), torch.zeros(2)))
        self.register_buffer("rates", rates.to(torch.tensor(0.0).device))
        self.table = nn.Parameter(torch.zeros(40_000, 25_000_000))  # 4 TB: a real one cannot be made


class Writes(nn.Module):
    """Writes what meta has no values of into what has, and reads it: only real memory gives the width."""

    def __init__(self) -> None:
        super().__init__()
        widths = torch.arange(2)
        widths[:] = torch.ones(2).long() * 3
        self.layer = nn.Linear(widths.tolist()[0], 2)


class Unmovable(nn.Module):
    """Insists on real values of its own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        nn.init.zeros_(self.layer.weight)
        self.total = self.layer.weight.sum().item()


class Assigned(nn.Module):
    """A buffer and a parameter put into the registries past the registration."""

    def __init__(self) -> None:
        super().__init__()
        self._buffers["mask"] = torch.tensor([1.0, 2.0])
        self.register_buffer("scale", None)
        self.scale = torch.tensor(3.0)
        self.register_buffer("table", torch.tensor([1, 2, 3]), persistent=False)
        self._parameters["bare"] = nn.Parameter(torch.tensor([1.0]))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight
        self.same = self.embed


def test_a_model_of_645_million_parameters_is_all_on_meta() -> None:
    # GIVEN regnet_y_128gf, whose loader publishes 644,812,894 parameters (2.6 GB)
    model = resolve("regnet_y_128gf").build("meta")
    # THEN each of them is on meta, where a tensor has no memory
    assert sum(p.numel() for p in model.parameters()) == 644_812_894
    assert on_meta(model)


def test_a_model_far_beyond_memory_can_be_built() -> None:
    # 2^40 weights are 4 TiB
    model = build(lambda: nn.Linear(2**20, 2**20, bias=False), "meta")
    assert model.weight.numel() == 2**40


@pytest.mark.parametrize("construct", [Schedules, Reads, Assigned, Tied])
def test_a_constructor_that_reads_values_still_builds_on_meta(
    construct: Callable[[], nn.Module],
) -> None:
    meta, real = build(construct, "meta"), build(construct, "cpu")
    assert on_meta(meta)
    assert [(name, p.shape, p.dtype) for name, p in meta.state_dict().items()] == [
        (name, p.shape, p.dtype) for name, p in real.state_dict().items()
    ]


def test_the_values_that_a_constructor_reads_are_the_true_ones() -> None:
    schedules = build(Schedules, "meta")
    assert schedules.rates == pytest.approx([0, 0.25, 0.5])
    assert [layer.in_features for layer in schedules.layers] == [8, 16, 24]
    assert build(Reads, "meta").layer.in_features == 4


def test_a_constructor_that_cannot_run_on_meta_falls_back_to_the_cpu() -> None:
    model = build(Unmovable, "meta")
    assert model.total == 0
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_a_constructor_that_joins_what_has_values_and_what_has_none_needs_no_memory() -> None:
    model = build(Joins, "meta")
    assert on_meta(model)
    assert model.get_buffer("rates").shape == (6,)


def test_what_is_written_into_values_is_not_lost() -> None:
    model = build(Writes, "meta")
    assert on_meta(model)
    assert model.get_submodule("layer").in_features == 3


def test_what_was_built_on_the_cpu_is_still_counted_on_meta() -> None:
    recipe = Recipe("unmovable", "python", lambda: nn.Sequential(Unmovable().layer))
    assert inspector.profile(recipe, "1x2").metrics["macs"].value == 4


def test_tied_weights_stay_tied() -> None:
    for device in ("meta", "cpu"):
        model = build(Tied, device)
        assert model.head.weight is model.embed.weight
        assert model.same is model.embed
        assert len(state_entries(model)) == 1


def test_one_parameter_under_two_names_stays_one() -> None:
    def construct() -> nn.Module:
        module = nn.Module()
        shared = nn.Parameter(torch.tensor([1.0, 2.0]), requires_grad=False)
        module.first = shared
        module.second = shared
        return module

    model = build(construct, "meta")
    assert model.first is model.second
    assert model.first.is_meta
    assert not model.first.requires_grad
    (entry,) = state_entries(model)
    assert entry.aliases == ("second",)


def test_buffers_keep_their_persistence() -> None:
    model = build(Assigned, "meta")
    assert set(model.state_dict()) == {"mask", "scale", "bare"}
    assert model.table.is_meta


def test_the_callers_random_state_is_kept() -> None:
    # GIVEN the three random states
    torch.manual_seed(5)
    random.seed(5)
    numpy.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()

    def construct() -> nn.Module:
        random.random()
        numpy.random.rand()
        return nn.Linear(3, 3)

    # WHEN a model is built on the CPU, on meta, and not at all
    build(construct, "cpu", seed=1)
    build(construct, "meta", seed=1)
    with pytest.raises(ZeroDivisionError):
        build(lambda: nn.Linear(3, 1 // 0), "meta")
    # THEN none of them moved
    after = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_equal_seeds_give_equal_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        return build(lambda: nn.Linear(3, 3), "cpu", seed).weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_registration_is_put_back_also_after_an_error() -> None:
    methods = nn.Module.register_parameter, nn.Module.register_buffer
    build(Schedules, "meta")
    with pytest.raises(ZeroDivisionError):
        build(lambda: nn.Linear(3, 1 // 0), "meta")
    assert methods == (nn.Module.register_parameter, nn.Module.register_buffer)
    assert nn.Linear(1, 1).weight.device.type == "cpu"


def test_an_explicit_device_is_respected_until_it_is_registered() -> None:
    seen: list[str] = []

    class Explicit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.ones(2, device="cpu")
            seen.append(table.device.type)
            self.register_buffer("table", table)

    assert build(Explicit, "meta").table.is_meta
    assert seen == ["cpu"]


def test_attributes_of_a_parameter_survive() -> None:
    def construct() -> nn.Module:
        model = nn.Linear(2, 2)
        tagged = nn.Parameter(torch.tensor([1.0]))
        tagged.no_decay = True
        model.register_parameter("tagged", tagged)
        return model

    assert build(construct, "meta").tagged.no_decay


def test_lazy_modules_build_and_wait_for_their_shape() -> None:
    model = build(lambda: nn.LazyLinear(4), "meta")
    assert isinstance(model.weight, nn.parameter.UninitializedParameter)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9")],
)
def test_running_out_of_memory_is_recognised(error: Exception) -> None:
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("shape mismatch"))


def test_running_out_of_memory_is_an_error_that_says_so() -> None:
    def construct() -> Any:
        raise MemoryError

    with pytest.raises(InspectError, match="not enough memory"):
        Recipe("big", "python", construct).build("cpu")


@pytest.mark.once
@pytest.mark.parametrize(
    "error",
    [
        KeyError("rope"),
        ValueError("no layers"),
        AttributeError("no attribute 'get'"),
        InspectError("no parameter is called so", "use another"),
    ],
)
def test_a_constructor_with_a_fault_of_its_own_is_not_tried_again_with_real_memory(error: Exception) -> None:
    tried = []

    def construct() -> nn.Module:
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        build(construct, "meta")
    assert len(tried) == 1


@pytest.mark.once
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_constructor_that_meta_defeats_is_tried_again(wrapped: bool) -> None:
    def construct() -> nn.Module:
        layer = nn.Linear(2, 2)
        try:
            layer.weight.sum().item()
        except RuntimeError as error:
            raise (ValueError("bad weights") if wrapped else error) from error
        return layer

    assert isinstance(build(construct, "meta"), nn.Linear)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_that_files_hold_is_available() -> None:
    """What the system counts as available, not the pages alone that nothing uses."""
    available = available_bytes()
    assert available is not None
    assert available == pytest.approx(psutil.virtual_memory().available, rel=0.2)


@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize("shape", [(3,), (3, 4), (3, 4, 5)])
def test_a_parameter_that_autograd_guards_is_no_place_to_write(shape: tuple[int, ...], part: bool) -> None:
    """A constructor that raises on the CPU raises on meta, whatever is skipped there."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(shape))
            (self.weight[0] if part else self.weight).fill_(1.0)

    for device in ("cpu", "meta"):
        with pytest.raises(RuntimeError, match="in-place operation"):
            build(Writes, device)


class Writing(TorchDispatchMode):
    """Counts the operators that run on meta and write in place."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func._schema.name.endswith("_") and args[0].is_meta
        return func(*args, **(kwargs or {}))


def test_values_that_are_not_there_are_not_computed() -> None:
    """As timm's truncated normal: uniform, erfinv, scaled, moved and cut."""

    def construct() -> nn.Module:
        layer = nn.Linear(3, 4)
        with torch.no_grad():
            made = layer.weight.uniform_(-1, 1).erfinv_().mul_(0.02).add_(1).clamp_(min=-2.0, max=2)
        assert made is layer.weight
        return layer

    with Writing() as writing:
        model: Any = build(construct, "meta")
    assert (writing.count, on_meta(model), model.weight.shape) == (0, True, (4, 3))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda weight: weight.add_(torch.zeros(5)),  # no such shape
        lambda weight: weight.clamp_(),  # no bound
        lambda weight: weight.add_("1"),
        lambda weight: weight.mul_(1.0, 2.0),
        lambda weight: weight.mul_(1.0, scale=2.0),
        lambda weight: weight.clamp_(minimum=2.0),
        lambda weight: weight.long().add_(0.5),  # would be a float
    ],
)
def test_arithmetic_in_place_that_is_wrong_raises_on_meta_too(wrong: Callable[[torch.Tensor], Any]) -> None:
    def construct() -> nn.Module:
        layer = nn.Linear(3, 4)
        with torch.no_grad():
            wrong(layer.weight)
        return layer

    for device in ("cpu", "meta"):
        with pytest.raises((RuntimeError, TypeError, ValueError)):
            build(construct, device)


def test_arithmetic_in_place_of_a_parameter_that_autograd_guards_raises_on_meta_too() -> None:
    def construct() -> nn.Module:
        layer = nn.Linear(3, 4)
        layer.weight.mul_(0.5)
        return layer

    for device in ("cpu", "meta"):
        with pytest.raises(RuntimeError, match="in-place operation"):
            build(construct, device)
