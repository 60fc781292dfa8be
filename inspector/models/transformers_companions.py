"""What a transformers forward demands besides, or uses without saying so in its signature, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from inspector.models.inputs import InputSpec
from inspector.models.transformers_rules import Asked, Way, fixed, number, ones, placed, vocabulary

REGIONS = 36
"""Of an image, as the detector that LXMERT and VisualBERT are trained with finds them."""
FRAMES = 50


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


def _task(asked: Asked, way: Way) -> InputSpec:
    length = number(asked.config, "task_seq_len", default=asked.length)
    return InputSpec((1, length), torch.int64, below=vocabulary(asked))


def _states(asked: Asked, *fields: str) -> InputSpec:
    """One vector for each token."""
    return InputSpec((1, asked.length, number(asked.config, *fields, "hidden_size", default=64)), asked.dtype)


def _latents(asked: Asked, way: Way) -> InputSpec:
    """What the first half of a codec of sounds made: a channel for each element."""
    return InputSpec((1, number(asked.config, "hidden_size", default=64), FRAMES), asked.dtype)


def _like_the_image(asked: Asked, way: Way) -> InputSpec:
    """An example and its mask are as large as the image."""
    return InputSpec(way["pixel_values"].shape, asked.dtype)


def _queries(asked: Asked, way: Way) -> InputSpec:
    count = number(asked.config, "num_query_tokens", default=32)
    return InputSpec((1, count, number(asked.config, "hidden_size", default=64)), asked.dtype)


def _encoded(asked: Asked, way: Way) -> InputSpec:
    """What another model made of an image or a text."""
    return _states(asked, "encoder_hidden_size", "cross_attention_hidden_size")


def _state(asked: Asked, way: Way) -> InputSpec:
    """Where the joints of a robot are."""
    return InputSpec((1, number(asked.config, "max_state_dim", "state_dim", default=32)), asked.dtype)


def _samples(asked: Asked, way: Way) -> InputSpec:
    """As long as the frames, each of which stands for `hop_length` samples."""
    features = way.get("input_features")
    frames = features.shape[1] if isinstance(features, InputSpec) else FRAMES
    return InputSpec((1, 1, frames * number(asked.config, "hop_length", default=320)), asked.dtype)


def _regions(field: str) -> Callable[[Asked, Way], InputSpec]:
    """Features of regions that another model detects, as wide as `field` of the configuration tells."""
    return lambda asked, way: InputSpec((1, REGIONS, number(asked.config, field, default=4)), asked.dtype)


def _first_tokens(asked: Asked, way: Way) -> InputSpec:
    """1 for the first tokens, in whose place the features of an image come."""
    count = number(asked.config, "latent_query_num", default=0)
    return InputSpec((1, _length(asked, way)), torch.int64, below=1, runs=((1, count),))


def _each_image(asked: Asked, way: Way) -> InputSpec:
    """Every token sees every image."""
    images = way.get("pixel_values")
    shape: tuple[int, ...] = images.shape if isinstance(images, InputSpec) else ()
    return ones(1, _length(asked, way), shape[1] if len(shape) == 5 else 1)


DEMANDED: dict[str, Callable[[Asked, Way], Any]] = {
    "bbox": _boxes,
    "input_ids": _ids,
    "qformer_input_ids": _ids,
    "tasks_input_ids": _ids,
    "task_inputs": _task,
    "classes_structure": lambda asked, way: fixed(1),
    "inputs": lambda asked, way: _states(asked, "d_model"),
    "inputs_embeds": lambda asked, way: _states(asked),
    "latents": _latents,
    "classes_input_ids": _ids,
    "attention_mask": _mask,
    "tasks_attention_mask": _mask,
    "classes_attention_mask": _mask,
    "prompt_pixel_values": _like_the_image,
    "prompt_masks": _like_the_image,
    "query_embeds": _queries,
    "state": _state,
    "input_values": _samples,
}
"""By name; each takes what was chosen so far."""
USED: dict[str, Callable[[Asked, Way], Any]] = {
    "bbox": _boxes,
    "decoder_input_ids": _short,
    "token_type_ids": lambda asked, way: InputSpec((1, _length(asked, way)), torch.int64, below=1),
    "mm_token_type_ids": _kinds,
    "attention_mask": _mask,
    "image_attention_mask": _each_image,
    "image_embeds_position_mask": _first_tokens,
    "encoder_hidden_states": _encoded,
    "visual_feats": _regions("visual_feat_dim"),
    "visual_pos": _regions("visual_pos_dim"),
}
"""Given where nothing runs without."""
