"""A replica trains like the original, and bytes are compared as bytes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.freezing.apply import KeepEval
from inspector.models.replica import Change, change, duplicate, replica, untouched


def test_tensors_that_share_memory_still_do() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = nn.Parameter(model[0].weight.data.t())
    copied = replica(model)
    assert copied[0].weight.untyped_storage().data_ptr() == copied[1].weight.untyped_storage().data_ptr()
    assert copied[0].weight.untyped_storage().data_ptr() != model[0].weight.untyped_storage().data_ptr()
    assert torch.equal(copied[1].weight, model[1].weight)


def test_one_parameter_under_two_names_stays_one() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    copied = replica(model)
    assert copied[1].weight is copied[0].weight is not model[0].weight


def test_gradients_and_flags_come_along() -> None:
    model = nn.Linear(2, 2)
    model.weight.grad = torch.ones(2, 2)
    model.bias.requires_grad_(False)
    copied = replica(model)
    assert torch.equal(copied.weight.grad, torch.ones(2, 2))
    assert copied.weight.grad is not model.weight.grad
    assert not copied.bias.requires_grad


def test_the_older_weight_norm_can_be_copied_after_a_forward() -> None:
    model = nn.utils.weight_norm(nn.Linear(3, 3))
    model(torch.ones(1, 3)).sum().backward()  # `weight` is no leaf now: copy.deepcopy refuses it
    copied = replica(model)
    assert torch.equal(copied(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_what_cannot_be_copied_is_one_line_with_a_hint() -> None:
    model = nn.Linear(2, 2)
    model.handle = open(__file__)  # noqa: SIM115
    with pytest.raises(InspectError, match="cannot be copied"):
        replica(model)
    model.handle.close()


def test_a_parameter_keeps_its_own_class() -> None:
    class Scale(nn.Parameter):
        pass

    model = nn.Module()
    model.scale = Scale(torch.ones(2))
    copied = replica(model)
    assert type(copied.scale) is Scale
    assert copied.scale.requires_grad
    assert copied.scale.data_ptr() != model.scale.data_ptr()


def test_an_original_that_runs_or_gets_a_gradient_is_noticed() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InspectError, match="of the original"), untouched(model):
        model(torch.ones(1, 2))
    with pytest.raises(InspectError, match="weight of the original"), untouched(model):
        (model.weight * 2).sum().backward()
    assert model.weight.grad is None
    with untouched(model):
        replica(model)(torch.ones(1, 2)).sum().backward()
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_a_change_counts_the_elements_that_differ(dtype: torch.dtype) -> None:
    before = torch.zeros(2, 3).to(dtype)
    after = before.clone()
    after[0, 1] = 1
    assert change(before, before.clone()) is None
    assert change(before, after) == Change(1, 6, 1.0)


def test_a_nan_equals_itself_and_a_negative_zero_is_another_byte() -> None:
    nan = torch.tensor([float("nan"), 0.0])
    assert change(nan, nan.clone()) is None
    assert change(nan, torch.tensor([float("nan"), -0.0])) == Change(1, 2, 0.0)


def test_keeping_eval_survives_copy_and_pickle() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    model[0].eval()
    model[0].__dict__["train"] = KeepEval(model[0])
    for twin in (replica(model), pickle.loads(pickle.dumps(model))):
        twin.train()
        assert twin.training
        assert not twin[0].training
        assert twin[0].__dict__["train"].module is twin[0]


def test_memory_that_torch_does_not_know_to_be_one_stays_one() -> None:
    array = np.zeros((4, 4), dtype="float32")
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].weight = nn.Parameter(torch.from_numpy(array))
    model[1].weight = nn.Parameter(torch.from_numpy(array[1:]))
    copied = replica(model)
    with torch.no_grad():
        copied[1].weight += 1
    assert torch.equal(copied[0].weight[1:], torch.ones(3, 4))
    assert not array.any()


def test_hooks_are_bound_to_the_copy_and_keep_their_own_count() -> None:
    model, calls = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), []
    count = 0

    def move(module: nn.Module, args: object) -> None:
        nonlocal count
        count += 1
        calls.append(count)
        model[0].weight.data.add_(1)

    model[1].register_forward_pre_hook(move)

    def follow(parameter: Tensor) -> None:
        model[0].bias.data.add_(1)

    model[1].weight.register_post_accumulate_grad_hook(follow)
    before = [parameter.clone() for parameter in model.parameters()]
    copied = replica(model)
    copied[1](torch.ones(1, 2)).sum().backward()
    assert torch.equal(copied[0].weight, before[0] + 1)
    assert torch.equal(copied[0].bias, before[1] + 1)
    assert all(map(torch.equal, before, model.parameters()))
    assert (count, calls) == (0, [])


def test_two_functions_that_share_a_variable_still_do() -> None:
    model, state = nn.Linear(2, 2), 0

    def write(module: nn.Module, args: object) -> None:
        nonlocal state
        state += 1

    model.register_forward_pre_hook(write)
    model.read = lambda: state
    copied = replica(model)
    copied(torch.ones(1, 2))
    assert (copied.read(), model.read()) == (1, 0)


def test_a_hook_that_cannot_be_copied_is_told() -> None:
    model = nn.Linear(2, 2)
    torch.autograd.graph.register_multi_grad_hook([model.weight, model.bias], lambda grads: None)
    twin = duplicate(model)
    assert set(twin.lost) == {"weight", "bias"}
    twin.model(torch.ones(1, 2)).sum().backward()  # and it does no harm
