"""A replica trains like the original, and bytes are compared as bytes."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.freezing.apply import KeepEval
from inspector.models.replica import Change, change, replica, untouched


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
