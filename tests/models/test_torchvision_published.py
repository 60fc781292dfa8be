"""Every weights entry of torchvision against the figures that torchvision publishes with it.

`_ops` are GMACs to three decimals, `num_params` are parameters (torchvision's own script:
test/common_extended_utils.py in pytorch/vision). A tiny model's figure is rounded coarsely, so the
distance is measured beyond the rounding: max(0, |x - published| - 0.0005).
"""

from __future__ import annotations

from typing import Any

import pytest
from torchvision.models import get_model_weights, list_models

from inspector.profiling.run import trace
from inspector.profiling.views.totals import totals

pytestmark = pytest.mark.once

BOXES: dict[str, dict[str, int]] = {
    "fasterrcnn_mobilenet_v3_large_fpn@COCO_V1": {"rpn_post_nms_top_n_test": 0},
    "fasterrcnn_mobilenet_v3_large_320_fpn@COCO_V1": {"rpn_post_nms_top_n_test": 0},
    "maskrcnn_resnet50_fpn@COCO_V1": {"box_detections_per_img": 0},
    "keypointrcnn_resnet50_fpn@COCO_LEGACY": {"box_detections_per_img": 0},
    "keypointrcnn_resnet50_fpn@COCO_V1": {"box_detections_per_img": 1},
}
"""How many boxes survived when torchvision took these figures; all others are the worst case."""

PARAMS = {"quantized_inception_v3@IMAGENET1K_FBGEMM_V1": 27_161_264 - 3_326_696}
"""The published figure counts the auxiliary head, which the quantized builder drops: two
convolutions with norms and a classifier, (768*128 + 2*128) + (128*768*25 + 2*768) + (768*1000 +
1000) = 3,326,696 parameters."""

ENTRIES = [f"{name}@{entry.name}" for name in list_models() for entry in get_model_weights(name)]


def published(spec: str) -> dict[str, Any]:
    name, _, entry = spec.partition("@")
    return get_model_weights(name)[entry].meta


def test_every_model_and_entry_is_covered() -> None:
    assert len(list_models()) >= 121
    assert len(ENTRIES) >= 166


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spec", ENTRIES)
def test_macs_and_parameters_equal_the_published_figures(spec: str) -> None:
    found = trace(spec, model_args=BOXES.get(spec))
    sums, meta = totals(found), published(spec)
    assert sums["unknown_ops"] == 0
    assert max(0.0, abs(sums["macs"] / 1e9 - meta["_ops"]) - 0.0005) / meta["_ops"] < 1e-9
    assert sums["params"] == PARAMS.get(spec, meta["num_params"])
    assert found.device == ("cpu" if spec.startswith("quantized_") else "meta")


@pytest.mark.parametrize("spec", BOXES)
def test_the_worst_case_of_a_detector_is_reported_and_not_less(spec: str) -> None:
    worst = trace(spec)
    assert any("proposals" in note and "detections" in note for note in worst.notes)
    assert totals(worst)["macs"] / 1e9 > published(spec)["_ops"]
