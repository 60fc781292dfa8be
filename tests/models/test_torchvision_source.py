"""torchvision's models by name: built as their loader does, with the input of their own recipe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models import get_model_weights, list_models

import inspector
from inspector.core.errors import InspectError
from inspector.models import resolve
from inspector.models.inputs import InputSpec

NAMES = list_models()


@pytest.fixture(autouse=True)
def offline(monkeypatch: Any) -> None:
    """Any attempt to download fails the test."""

    def fail(*args: Any, **_: Any) -> None:
        raise AssertionError(f"tried to download {args[0]}")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fail)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)


def shapes(spec: str, phase: str = "forward", **model_args: Any) -> Any:
    """The default inputs with their shapes only."""
    recipe = resolve(spec, model_args)
    inputs = recipe.defaults(recipe.build("meta"), phase)
    assert inputs is not None

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: shape(entry) for key, entry in value.items()}
        return value.shape if isinstance(value, InputSpec) else [shape(entry) for entry in value]

    return [shape(value) for value in inputs.args]


def refused(spec: str, **model_args: Any) -> InspectError:
    with pytest.raises(InspectError) as caught:
        resolve(spec, model_args).build("meta")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


def test_googlenet_has_auxiliary_heads_and_its_entry_has_none() -> None:
    assert resolve("googlenet").build("meta").aux1 is not None
    assert resolve("googlenet@DEFAULT").build("meta").aux1 is None


def test_an_entry_builds_the_image_size_of_its_weights() -> None:
    model = resolve("vit_h_14@IMAGENET1K_SWAG_E2E_V1").build("meta")
    # 518 / 14 = 37 patches a side and the class token; the default is 224 / 14 = 16 a side.
    assert model.encoder.pos_embedding.shape[1] == 37 * 37 + 1
    assert shapes("vit_h_14@IMAGENET1K_SWAG_E2E_V1") == [(1, 3, 518, 518)]
    assert shapes("vit_h_14") == [(1, 3, 224, 224)]


def test_an_entry_builds_the_number_of_classes_of_its_weights() -> None:
    spec = "fcn_resnet50@COCO_WITH_VOC_LABELS_V1"
    assert resolve(spec).build("meta").classifier[-1].out_channels == 21
    assert resolve(spec).build("meta").aux_classifier is not None
    assert resolve("fcn_resnet50").build("meta").aux_classifier is None


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        ("resnet50", (1, 3, 224, 224)),
        ("inception_v3", (1, 3, 299, 299)),
        ("efficientnet_b7", (1, 3, 600, 600)),
        ("regnet_y_16gf@IMAGENET1K_SWAG_E2E_V1", (1, 3, 384, 384)),
        ("swin_v2_t", (1, 3, 256, 256)),
        ("deeplabv3_resnet50", (1, 3, 520, 520)),
        ("r3d_18", (1, 3, 16, 112, 112)),
        ("mvit_v1_b", (1, 3, 16, 224, 224)),
        ("s3d", (1, 3, 16, 224, 224)),
        ("quantized_resnet18", (1, 3, 224, 224)),
    ],
)
def test_the_default_input_is_that_of_the_models_own_recipe(spec: str, size: tuple[int, ...]) -> None:
    assert shapes(spec) == [size]


def test_optical_flow_takes_two_images() -> None:
    assert shapes("raft_small") == [(1, 3, 512, 512)] * 2


@pytest.mark.parametrize(
    ("spec", "side"),
    [
        ("fasterrcnn_resnet50_fpn", 800), ("ssd300_vgg16", 300), ("ssdlite320_mobilenet_v3_large", 320),
        ("fasterrcnn_mobilenet_v3_large_320_fpn", 320),
    ],
)  # fmt: skip
def test_a_detector_takes_a_list_of_images_of_its_own_size(spec: str, side: int) -> None:
    assert shapes(spec) == [[(3, side, side)]]


def test_training_a_detector_gives_it_a_target() -> None:
    images, (target,) = shapes("keypointrcnn_resnet50_fpn", "train")
    assert len(images) == 1
    assert target["boxes"] == (1, 4)
    assert target["keypoints"] == (1, 17, 3)
    (target,) = shapes("maskrcnn_resnet50_fpn", "train")[1]
    assert set(target) == {"boxes", "labels", "masks"}
    assert target["masks"] == (1, 800, 800)


def test_the_input_follows_the_image_size_that_the_model_is_built_for() -> None:
    assert shapes("vit_b_16", image_size=64) == [(1, 3, 64, 64)]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_default_input(name: str) -> None:
    inputs = shapes(name)
    assert 1 <= len(inputs) <= 2
    for entry in inputs:
        shape = entry[0] if isinstance(entry, list) else entry
        assert 3 in shape[:2]
        assert all(size > 0 for size in shape)


def test_every_entry_can_be_named_and_none_is_downloaded() -> None:
    for name in NAMES:
        for entry in get_model_weights(name):
            assert resolve(f"{name}@{entry.name}").name == f"{name}@{entry.name}"


def test_building_an_entry_puts_torchvision_back() -> None:
    from torchvision.models import WeightsEnum

    before = WeightsEnum.get_state_dict, torch.nn.Module.load_state_dict, torch.backends.quantized.engine
    resolve("resnet18@DEFAULT").build("meta")
    resolve("quantized_resnet18@DEFAULT").build("cpu")
    after = WeightsEnum.get_state_dict, torch.nn.Module.load_state_dict, torch.backends.quantized.engine
    assert after == before


def test_the_prefix_may_be_written_or_left_out() -> None:
    assert resolve("torchvision:resnet18").name == resolve("resnet18").name == "resnet18"


def test_an_unknown_model_gets_the_nearest_names() -> None:
    error = refused("resnt50")
    assert "'resnt50'" in error.message
    assert "resnet50" in (error.hint or "")
    assert "resnet50" in (refused("torchvision:resnt50").hint or "")


def test_an_unknown_entry_lists_the_ones_that_exist() -> None:
    error = refused("resnet50@IMAGENET")
    assert "'IMAGENET'" in error.message
    assert "IMAGENET1K_V1, IMAGENET1K_V2" in (error.hint or "")


@pytest.mark.parametrize("name", ["url", "name", "get_state_dict", "__class__"])
def test_attributes_of_the_enumeration_are_no_entries(name: str) -> None:
    assert "no weights entry" in refused(f"resnet50@{name}").message


def test_weights_are_refused_as_a_model_argument() -> None:
    error = refused("resnet50", weights="DEFAULT")
    assert "resnet50@DEFAULT" in (error.hint or "")


@pytest.mark.parametrize("arguments", [{"nonsense": 1}, {"num_classes": "many"}])
def test_a_wrong_model_argument_is_an_error(arguments: Any) -> None:
    refused("resnet50", **arguments)


def test_a_quantized_model_reports_the_parameters_of_its_float_model() -> None:
    report = inspector.profile("quantized_resnet18@DEFAULT")
    # torchvision publishes 11,689,512 for it, which is resnet18's.
    assert report.metrics["params"].value == 11_689_512
    assert any("float model" in finding.message for finding in report.findings)


def test_the_ledger_of_a_quantized_model_says_that_its_weights_are_packed() -> None:
    report = inspector.params("quantized_resnet18@DEFAULT")
    assert report.metrics["params"].value == 0
    assert set(report.to_frame()["kind"]) == {"packed", "buffer"}
    assert any("pack" in finding.message for finding in report.findings)


def test_packed_weights_are_counted_once() -> None:
    report = inspector.params("quantized_resnet18@DEFAULT")
    # Fusion drops 4,800 scales and 4,800 shifts of norms and gives 4,800 biases to convolutions.
    assert report.metrics["packed_params"].value == 11_689_512 - 4_800
