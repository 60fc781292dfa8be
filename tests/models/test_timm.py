"""timm models: names, configurations and the input that they name."""

from __future__ import annotations

from typing import Any

import pytest

timm = pytest.importorskip("timm")

import inspector  # noqa: E402
import inspector.models.catalogue  # noqa: E402
from inspector.core.errors import InspectError  # noqa: E402
from inspector.models import resolve  # noqa: E402


def shape(spec: str, **model_args: Any) -> tuple[int, ...]:
    recipe = resolve(spec, model_args)
    inputs = recipe.defaults(recipe.build("meta"), "forward")
    assert inputs is not None
    return inputs.args[0].shape


def refused(spec: str, **model_args: Any) -> InspectError:
    with pytest.raises(InspectError) as caught:
        resolve(spec, model_args).build("meta")
    assert "\n" not in caught.value.message
    return caught.value


@pytest.fixture(autouse=True)
def offline(monkeypatch: Any) -> None:
    """Fail on any attempt to reach the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)


def test_an_unknown_name_gets_the_nearest_ones() -> None:
    error = refused("timm:resnt50")
    assert "resnt50" in error.message
    assert "resnet50" in (error.hint or "")


def test_a_name_like_no_other_points_to_the_list() -> None:
    assert "inspect models" in (refused("timm:qqqqqqqq").hint or "")


def test_an_unknown_tag_lists_the_tags_that_exist() -> None:
    error = refused("timm:resnet50.foo")
    assert "'foo'" in error.message
    assert "a1_in1k" in (error.hint or "")


@pytest.mark.parametrize("spec", ["timm:resnet50.", "timm:.", "timm:hf-hub:timm/resnet50"])
def test_what_only_looks_like_a_name_is_refused(spec: str) -> None:
    assert refused(spec).hint


@pytest.mark.parametrize("arguments", [{"pretrained": True}, {"nonsense": 1}])
def test_arguments_that_the_model_does_not_take_are_named(arguments: Any) -> None:
    assert next(iter(arguments)) in refused("timm:resnet18", **arguments).message


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        ("timm:resnet18", (1, 3, 224, 224)),
        ("timm:vit_tiny_patch16_384", (1, 3, 384, 384)),
        ("timm:inception_v3", (1, 3, 299, 299)),
        # The tag chooses the size.
        ("timm:convnext_tiny.fb_in22k_ft_in1k_384", (1, 3, 384, 384)),
        ("timm:convnext_tiny.fb_in22k", (1, 3, 224, 224)),
    ],
)
def test_the_input_is_the_size_of_the_configuration(spec: str, size: tuple[int, ...]) -> None:
    assert shape(spec) == size


def test_a_tag_chooses_the_number_of_classes() -> None:
    def classes(spec: str) -> int:
        return resolve(spec).build("meta").num_classes

    assert classes("timm:convnext_tiny.fb_in1k") == 1000
    assert classes("timm:convnext_tiny.fb_in22k") == 21841


def test_the_input_follows_the_arguments() -> None:
    assert shape("timm:resnet18", in_chans=1) == (1, 1, 224, 224)
    assert shape("timm:vit_tiny_patch16_224", img_size=384) == (1, 3, 384, 384)
    assert shape("timm:vit_tiny_patch16_224", img_size=[160, 96]) == (1, 3, 160, 96)


def test_resnet18_counts_what_torchvision_publishes_for_it() -> None:
    # torchvision's resnet18 (the same architecture): 11,689,512 parameters, 1.814 GMACs.
    metrics = inspector.profile("timm:resnet18").metrics
    assert metrics["params"].value == 11_689_512
    assert round(metrics["macs"].value / 1e9, 3) == 1.814
    assert metrics["unknown_ops"].value == 0


def test_without_timm_the_install_command_is_named(monkeypatch: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    assert "pip install 'torch-inspector[timm]'" in (refused("timm:resnet18").hint or "")


def test_the_catalogue_lists_every_timm_model(inspect: Any) -> None:
    report = inspector.models.catalogue.models(source="timm")
    assert report.metrics["models"].value == len(timm.list_models())
    assert "timm:resnet18" in set(report.to_frame()["spec"])


def test_the_catalogue_is_written_for_people(inspect: Any) -> None:
    """resnet18 has 11,689,512 parameters and 1.814 GMACs: what torchvision publishes."""
    _, out, _ = inspect("models", "resnet18*")
    headings, row = (out.splitlines()[place].split() for place in (3, 5))
    assert headings == ["spec", "source", "task", "params", "GMACs", "entries"]
    assert row == ["resnet18", "torchvision", "classification", "11,689,512", "1.814", "IMAGENET1K_V1"]
    assert "unknown" not in out  # timm publishes none of them
