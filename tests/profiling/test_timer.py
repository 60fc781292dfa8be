"""Whose time it is: the forward is cut at entries and exits, and every piece has one owner."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from inspector.profiling import timer as room
from inspector.profiling.timer import module_times


class Ticks:
    """A clock on which every look costs one second."""

    def __init__(self) -> None:
        self.time = 0

    def begin(self) -> None: ...

    def end(self) -> None: ...

    def now(self) -> int:
        self.time += 1
        return self.time

    def between(self, start: int, stop: int) -> float:
        return float(stop - start)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.inner(x))


def paths(model: nn.Module) -> dict[int, str]:
    return {id(module): path for path, module in model.named_modules()}


def test_every_piece_between_two_marks_belongs_to_the_innermost_module() -> None:
    model = nn.Sequential(Twice(), nn.ReLU())
    # marks: start, model in, 0 in, 0.inner in, out, in, out, 0 out, 1 in, 1 out, model out, end.
    # The model owns before it, 0 out to 1 in, and after; each piece is one tick.
    line = room._marked(lambda: model(torch.zeros(1)), paths(model), Ticks())
    own = line.own
    assert own == {"": 1 + 1 + 1 + 1 + 1, "0": 3, "0.inner": 2, "1": 1}
    assert sum(own.values()) == line.total == 11
    # Between entry and exit: the model all but the first and the last piece, 0 its own three and two of
    # 0.inner, each call of which is one.
    assert line.inside == {"": 9, "0": 5, "0.inner": 2, "1": 1}
    # When each began and ended, the first to end first, and how many are around it.
    assert line.spans == [
        ("0.inner", 2, 3, 4), ("0.inner", 2, 5, 6), ("0", 1, 2, 7), ("1", 1, 8, 9), ("", 0, 1, 10),
    ]  # fmt: skip


def test_without_marks_all_is_the_models() -> None:
    assert room._marked(lambda: None, {}, Ticks()) == ({"": 1.0}, {}, [])


def test_a_forward_that_raises_leaves_torch_as_it_was() -> None:
    call = nn.Module.__call__
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError):
        module_times(model, lambda: model(torch.zeros(1, 3)), seconds=0.0)
    with pytest.raises(RuntimeError):
        room._marked(lambda: model(torch.zeros(1, 3)), paths(model), Ticks())
    assert nn.Module.__call__ is call


def test_a_real_forward_is_measured_and_adds_up() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    times = module_times(model, lambda: model(torch.zeros(8, 64)), seconds=0.0)
    assert times.runs == room.LEAST_RUNS
    assert set(times.own) == {"", "0", "1"}
    assert min(times.own.values()) >= 0
    assert sum(times.own.values()) == pytest.approx(times.total)
    assert times.own["1"] == times.inside["1"] < times.inside[""] < times.total
    assert times.bare > 0
    assert not model[0]._forward_hooks


def test_the_heavy_layer_takes_the_time() -> None:
    # 1024^3 multiplications against 1024^2 comparisons
    model = nn.Sequential(nn.ReLU(), nn.Linear(1024, 1024))
    times = module_times(model, lambda: model(torch.zeros(1024, 1024)), seconds=0.0)
    assert times.own["1"] > times.own["0"]


@pytest.mark.gpu
def test_a_gpu_is_timed_by_events() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(2048, 2048)).cuda()
    times = module_times(model, lambda: model(torch.zeros(2048, 2048, device="cuda")), "cuda", seconds=0.0)
    assert sum(times.own.values()) == pytest.approx(times.total)
    assert times.own["1"] > times.own["0"]
