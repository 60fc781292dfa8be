"""Inputs as small as a model accepts, and globs over names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.core.naming import matches, select
from inspector.models import resolve
from inspector.models.inputs import Inputs, InputSpec, as_inputs
from inspector.models.python import from_module
from inspector.models.small import smallest, with_batch
from inspector.models.subject import Recipe


def shapes(name: str) -> list[tuple[int, ...]]:
    recipe = resolve(name)
    found = smallest(recipe, recipe.build("meta"))
    assert found is not None
    return [value.shape for value in found.args]


def test_a_convolutional_network_shrinks_to_its_smallest_image() -> None:
    assert shapes("resnet18") == [(4, 3, 32, 32)]
    # alexnet: three poolings of stride 2 after a convolution of stride 4 leave nothing of 32 or 48.
    assert shapes("alexnet") == [(4, 3, 64, 64)]


def test_a_vision_transformer_keeps_its_size_and_two_samples() -> None:
    assert shapes("vit_b_16") == [(2, 3, 224, 224)]


def test_video_keeps_its_frames() -> None:
    assert shapes("r3d_18") == [(4, 3, 16, 32, 32)]


def test_a_live_model_is_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    recipe = Recipe(
        "net", "python", lambda: model, lambda m, phase: Inputs((InputSpec((1, 3, 64, 64)),)), rebuilds=False
    )
    found = smallest(recipe, model)
    assert found is not None
    assert found.args[0].shape == (4, 3, 32, 32)
    assert not model.training
    assert model[0].weight.device.type == "cpu"
    assert torch.equal(model[1].running_mean, torch.zeros(4))


def test_without_a_default_there_is_none() -> None:
    model = nn.Linear(2, 2)
    assert smallest(from_module(model), model) is None


def test_a_batch_grows_where_it_was_one() -> None:
    given = as_inputs(["1x3x8x8", "2x5", "ids=int64[1,7]", "[3x8x8]"])
    grown = with_batch(given, 2)
    assert [value.shape for value in grown.args[:2]] == [(2, 3, 8, 8), (2, 5)]
    assert len(grown.args[2]) == 2
    assert grown.kwargs["ids"].shape == (2, 7)


@pytest.mark.once
@pytest.mark.parametrize(
    ("texts", "shape"),
    [
        (["input_ids=int64[1,9]", "pixel_values=6x8", "image_grid_thw=int64[1,3]"], (12, 8)),
        (["hidden_states=6x8", "grid_thw=int64[1,3]"], (12, 8)),
        (["input_ids=int64[1,9]", "pixel_values=5x3x8x8"], (10, 3, 8, 8)),  # five tiles of one image
        (["input_ids=int64[1,9]", "pixel_values=1x3x8x8"], (2, 3, 8, 8)),
        (["input_ids=int64[3,9]", "pixel_values=3x3x8x8"], (3, 3, 8, 8)),  # three samples already
        (["pixel_values=3x3x8x8"], (3, 3, 8, 8)),
    ],
)
def test_patches_of_all_samples_in_one_dimension_are_twice_as_many(texts, shape) -> None:
    given = as_inputs(texts)
    name = "pixel_values" if "pixel_values" in given.kwargs else "hidden_states"
    assert with_batch(given, 2).kwargs[name].shape == shape
    tensors = {key: torch.zeros(spec.shape, dtype=spec.dtype) for key, spec in given.kwargs.items()}
    assert with_batch(Inputs((), tensors), 2).kwargs[name].shape == shape


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("layer1.0.conv1", "conv*", True),
        ("layer1.0.conv1", "layer1.*", True),
        ("layer10.0.conv1", "layer1.*", False),
        ("layer1.0.conv1", "layer?.0.conv1", True),
        ("conv1.weight", "*.weight", True),
        ("encoder.cls_token", "cls_token", True),
        ("layer1.0.conv1", "layer1", False),
    ],
)
def test_globs(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


def test_an_exact_name_means_only_itself() -> None:
    paths = ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert select(paths, ["conv1"], "layer", "layers") == ["conv1"]
    assert select(paths, ["conv2"], "layer", "layers") == ["layer1.0.conv2"]
    assert select(paths, ["conv*"], "layer", "layers") == paths
    with pytest.raises(InspectError, match="`layers=` 'conv9' matches no layer"):
        select(paths, ["conv*", "conv9"], "layer", "layers")
