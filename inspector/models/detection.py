"""torchvision's detectors on the meta device: counted at their own upper limits.

How many boxes survive depends on the image and the weights, so shapes alone cannot tell. Counted is
the worst case: every candidate passes the score threshold and non-maximum suppression, up to the
limits `post_nms_top_n` (proposals) and `detections_per_img` (detections) of the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from inspector.tracing import _torch


def nonzero(x: Tensor) -> Any:
    """Every element is nonzero: (numel, ndim)."""
    if x.device.type != "meta":
        return NotImplemented
    return torch.empty((x.numel(), x.dim()), dtype=torch.int64, device="meta")


def index(x: Tensor, indices: list[Tensor | None]) -> Any:
    """A mask selects every element."""
    if not any(_mask(entry) for entry in indices):
        return NotImplemented
    spread: list[Tensor | None] = []
    for entry in indices:
        if entry is not None and _mask(entry):
            spread += [torch.empty(entry.numel(), dtype=torch.int64, device="meta")] * entry.dim()
        else:
            spread.append(entry)
    return torch.ops.aten.index.Tensor(x, spread)


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Any:
    """No box suppresses another."""
    if boxes.device.type != "meta":
        return NotImplemented
    return torch.empty(boxes.shape[0], dtype=torch.int64, device="meta")


def _mask(entry: Tensor | None) -> bool:
    return entry is not None and entry.device.type == "meta" and entry.dtype in (torch.bool, torch.uint8)


RULES = {"aten.nonzero": nonzero, "aten.index": index, "torchvision.nms": nms}


MANY_BOXES = 20000
"""torchvision suppresses class by class above this many coordinates (ops/boxes.py, batched_nms)."""


@contextmanager
def countable(model: Any) -> Iterator[None]:
    """Stand-ins for the four functions that loop over values of tensors."""
    from torchvision.models.detection import roi_heads, transform
    from torchvision.ops import boxes, poolers

    pool = _torch.multiscale_roi_align

    def batched_nms(boxes_: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
        if boxes_.device.type != "meta":
            return originals[0](boxes_, scores, labels, threshold)
        if boxes_.numel() <= MANY_BOXES:
            return _torch.batched_nms(boxes_, scores, labels, threshold)
        return suppress_by_class(boxes_, scores, labels, threshold, _classes(model))

    def multiscale_roi_align(
        x: list[Tensor], boxes_: list[Tensor], size: Any, ratio: int, scales: Any, mapper: Any
    ) -> Tensor:
        """Each box is pooled from exactly one level; which one does not change the cost."""
        if x[0].device.type != "meta":
            return pool(x, boxes_, size, ratio, scales, mapper)
        return pool(x[:1], boxes_, size, ratio, scales[:1], mapper)

    def paste_masks(masks: Tensor, boxes_: Tensor, shape: Any, padding: int = 1) -> Tensor:
        if masks.device.type != "meta":
            return originals[2](masks, boxes_, shape, padding)
        return masks.new_empty((masks.shape[0], 1, *shape))

    def heatmaps_to_keypoints(maps: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        if maps.device.type != "meta":
            return originals[3](maps, rois)
        count, points = maps.shape[:2]
        return maps.new_empty((count, points, 3)), maps.new_empty((count, points))

    places = [
        (boxes, "batched_nms", batched_nms),
        (poolers, pool.__name__, multiscale_roi_align),
        (transform, "paste_masks_in_image", paste_masks),
        (roi_heads, "heatmaps_to_keypoints", heatmaps_to_keypoints),
    ]
    originals = [getattr(module, name) for module, name, _ in places]
    try:
        for module, name, stand_in in places:
            setattr(module, name, stand_in)
        yield
    finally:
        for (module, name, _), original in zip(places, originals):
            setattr(module, name, original)


def suppress_by_class(
    boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float, classes: int
) -> Tensor:
    """Every class holds the same number of boxes: each box is a candidate for each class."""
    size = boxes.shape[0] // classes
    for _ in range(classes):
        _ = labels == 0
        torch.ops.torchvision.nms(boxes[:size], scores[:size], threshold)
    return scores.argsort(descending=True)


def _classes(model: Any) -> int:
    """Object classes, without the background."""
    heads = getattr(model, "roi_heads", None)
    if heads is not None:
        return heads.box_predictor.cls_score.out_features - 1
    return model.head.classification_head.num_columns - 1


def assumptions(model: Any) -> tuple[str, ...]:
    """The numbers of boxes that a count on meta assumes, and how to change them."""
    heads = getattr(model, "roi_heads", None)
    if heads is None:
        return (
            "worst case: every candidate box passes the score threshold and suppression"
            " (contractions do not depend on it)",
        )
    proposals = _torch.proposals_of(model.rpn)["testing"]
    return (
        f"worst case: {proposals} proposals and {heads.detections_per_img} detections per image;"
        " set them with --model-arg rpn_post_nms_top_n_test=N --model-arg box_detections_per_img=N",
    )


def uncounted(model: Any) -> tuple[str, ...]:
    """Pointwise work that depends on where the boxes are."""
    heads = getattr(model, "roi_heads", None)
    if heads is not None and heads.has_mask():
        return ("pasting masks into the image",)
    if heads is not None and heads.has_keypoint():
        return ("decoding keypoints from their heat maps",)
    return ()
