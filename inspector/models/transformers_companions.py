"""What a transformers forward demands besides, or uses without saying so in its signature, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inspector.models.inputs import InputSpec
from inspector.models.transformers_rules import Asked, Way, ones, placed, vocabulary


def _length(asked: Asked, way: Way) -> int:
    return way["input_ids"].shape[-1] if "input_ids" in way else asked.length


def _boxes(asked: Asked, way: Way) -> InputSpec:
    """No text without a place: all at the origin."""
    return InputSpec((1, _length(asked, way), 4), torch.int64, below=1)


def _ids(asked: Asked, way: Way) -> InputSpec:
    return InputSpec((1, asked.length), torch.int64, below=vocabulary(asked))


def _short(asked: Asked, way: Way) -> InputSpec:
    return InputSpec((1, 16), torch.int64, below=vocabulary(asked))


def _mask(asked: Asked, way: Way) -> InputSpec:
    return ones(1, _length(asked, way))


def _kinds(asked: Asked, way: Way) -> InputSpec:
    """1 where an image or a sound stands, 0 for text."""
    images = placed(asked, way["input_ids"]) if "input_ids" in way else 0
    return InputSpec((1, _length(asked, way)), torch.int64, below=1, runs=((1, images),))


DEMANDED: dict[str, Callable[[Asked, Way], Any]] = {
    "bbox": _boxes,
    "input_ids": _ids,
    "qformer_input_ids": _ids,
    "tasks_input_ids": _ids,
    "task_inputs": _ids,
    "classes_input_ids": _ids,
    "attention_mask": _mask,
    "tasks_attention_mask": _mask,
    "classes_attention_mask": _mask,
}
"""By name; each takes what was chosen so far."""
USED: dict[str, Callable[[Asked, Way], Any]] = {
    "bbox": _boxes,
    "decoder_input_ids": _short,
    "token_type_ids": lambda asked, way: InputSpec((1, _length(asked, way)), torch.int64, below=1),
    "mm_token_type_ids": _kinds,
    "attention_mask": _mask,
    "image_attention_mask": lambda asked, way: ones(1, _length(asked, way), 1),
}
"""Given where nothing runs without."""
