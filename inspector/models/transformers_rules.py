"""One rule for each kind of input of a transformers model: in which ways it can be laid out.

A rule looks at the names that the forward takes and at the configuration, never at the name of a class.
"""

from __future__ import annotations

import inspect as introspection
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from inspector.models.inputs import InputSpec

TEXT_LENGTH = 128
AUDIO_FRAMES = 3000
AUDIO_SAMPLES = 16000
IMAGE_SIZES = (224, 640, 1536)
FRAMES = 16
Way = dict[str, Any]
"""Inputs by name that belong together."""


@dataclass(frozen=True)
class Asked:
    """A model as its rules see it."""

    model: Any

    @property
    def config(self) -> Any:
        return self.model.config

    @cached_property
    def parameters(self) -> dict[str, bool]:
        """The names that the forward takes, and whether it demands them."""
        every = introspection.signature(type(self.model).forward).parameters.values()
        named = [one for one in every if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        return {one.name: one.default is one.empty for one in named if one.name != "self"}

    @cached_property
    def demanded(self) -> tuple[str, ...]:
        """What the forward has no default for."""
        return tuple(name for name, demanded in self.parameters.items() if demanded)

    @cached_property
    def main(self) -> tuple[str, ...]:
        """The class's main inputs, and what its forward demands."""
        name = getattr(self.model, "main_input_name", "input_ids")
        return (*(name if isinstance(name, (list, tuple)) else (name,)), *self.demanded)

    @cached_property
    def text(self) -> Any:
        """The configuration of the text part."""
        try:
            return self.config.get_text_config()
        except (AttributeError, ValueError):
            return part(self.config, "text_config", "text_encoder") or self.config

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of images and sounds: that of the weights."""
        floats = (p.dtype for p in self.model.parameters() if p.dtype.is_floating_point and p.dim() > 1)
        return next(floats, torch.float32)

    @cached_property
    def longest(self) -> int:
        """Positions of a text, many where the configuration sets no limit."""
        longest = number(self.text, "max_position_embeddings", "n_positions", default=-1)
        return longest if longest > 0 else 2**40  # some write -1

    @property
    def length(self) -> int:
        """Tokens of a text."""
        return min(TEXT_LENGTH, self.longest)

    def takes(self, *names: str) -> bool:
        return all(name in self.parameters for name in names)

    def fits(self, way: Way) -> Way:
        """What the forward takes of a way."""
        return {name: value for name, value in way.items() if name in self.parameters}


def configurations(config: Any) -> Iterator[Any]:
    """A configuration, then those in it, from the outside in."""
    waiting = [config]
    while waiting:
        config = waiting.pop(0)
        yield config
        waiting += [value for value in vars(config).values() if hasattr(value, "to_dict")]


def part(config: Any, *names: str) -> Any:
    """The first of these sub-configurations, at any depth; None without."""
    for one in configurations(config):
        for name in names:
            if hasattr(getattr(one, name, None), "to_dict"):
                return getattr(one, name)
    return None


def number(config: Any, *names: str, default: int) -> int:
    """The first of these fields that is a whole number; of a pair, its last."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, (list, tuple)) and value and isinstance(value[-1], int):
            return int(value[-1])
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return default


def fixed(*row: int, dtype: torch.dtype = torch.int64) -> InputSpec:
    """One row of these values."""
    return InputSpec((1, len(row)), dtype, runs=tuple((value, 1) for value in row))


def ones(*shape: int, dtype: torch.dtype = torch.int64) -> InputSpec:
    """A mask that leaves everything."""
    return InputSpec(shape, dtype, runs=((1, shape[-1]),))


# Text.


def special(config: Any) -> tuple[int, ...]:
    """Tokens that a drawn text must not hold."""
    fields = (pair for one in configurations(config) for pair in vars(one).items())
    ids = [value for name, value in fields if name.endswith(("_token_id", "_token_index"))]
    flat = [one for value in ids for one in (value if isinstance(value, list) else [value])]
    return tuple(sorted({one for one in flat if isinstance(one, int)}))


def vocabulary(asked: Asked) -> int | None:
    """How many tokens an input may take: what the configuration says and the embedding has."""
    sizes = [number(asked.text, "vocab_size", default=0)]
    try:
        sizes.append(asked.model.get_input_embeddings().weight.shape[0])
    except (AttributeError, NotImplementedError, TypeError):
        pass
    return min((size for size in sizes if size), default=None)


def text(asked: Asked) -> Iterator[Way]:
    """Token ids, for the decoder too where the forward names them; several choices for one question."""
    tokens = InputSpec((1, asked.length), torch.int64, below=vocabulary(asked))
    way: Way = {}
    if asked.takes("decoder_input_ids") and getattr(asked.config, "is_encoder_decoder", False):
        way["decoder_input_ids"] = decoder_ids(asked)
    if not asked.takes("input_ids") or not ("input_ids" in asked.main or part(asked.config, "text_config")):
        yield way
        return
    yield {**way, "input_ids": tokens}
    # for a forward that looks for padding, or for the end
    known = replace(tokens, runs=((_last(asked.text), 1),), never=special(asked.text))
    yield {**way, "input_ids": known}
    books = number(asked.config, "num_codebooks", default=0)
    shapes = [(books, asked.length), (1, books, asked.length), (1, asked.length, books)] if books else []
    for shape in (*shapes, (1, 2, asked.length)):
        yield {**way, "input_ids": replace(known, shape=shape)}


def _last(config: Any) -> int:
    """The token that ends a text; without one, the first ordinary one."""
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list) and end else end
    return end if isinstance(end, int) else next(n for n in range(1000) if n not in special(config))


def decoder_ids(asked: Asked) -> InputSpec:
    config = part(asked.config, "decoder", "decoder_config") or asked.config
    words = number(config, "decoder_vocab_size", "vocab_size", default=0)
    words = words or number(asked.text, "vocab_size", default=0)
    longest = number(config, "max_target_positions", "max_position_embeddings", default=TEXT_LENGTH)
    length = min(TEXT_LENGTH, longest) if longest > 0 else TEXT_LENGTH
    rows, channels = (number(config, name, default=1) for name in ("num_codebooks", "num_channels"))
    shape = (1, length, channels) if channels > 1 else (rows, length)
    return InputSpec(shape, torch.int64, below=words or None)


# Images.

MERGED = ("image", "video", "audio")
"""What can stand within a text, where its placeholder tokens are."""


def placeholder(config: Any, kind: str) -> int | None:
    for one in configurations(config):
        for name in (f"{kind}_token_id", f"{kind}_token_index"):
            if isinstance(getattr(one, name, None), int):
                return int(getattr(one, name))
    return None


def placed(asked: Asked, ids: InputSpec) -> int:
    """How many placeholders a text begins with."""
    tokens = {placeholder(asked.config, kind) for kind in MERGED}
    return sum(count for token, count in ids.runs if token in tokens)


_IMAGE_NAMES = ("pixel_values", "pixel_values_videos", "image", "hidden_states", "flattened_patches")
_IMAGE_FIELDS = ("image_size", "input_size", "patch_size", "num_channels", "backbone_config", "backbone")


def _described(asked: Asked, sub: str, fields: tuple[str, ...]) -> bool:
    return part(asked.config, sub) is not None or any(hasattr(asked.config, name) for name in fields)


def images(asked: Asked) -> Iterator[Way]:
    """A picture in packed patches with its grid, as one image, as several images or frames."""
    config = part(asked.config, "vision_config", "backbone_config", "vision_tower_config") or asked.config
    names = [name for name in _IMAGE_NAMES if asked.takes(name)]
    if not asked.takes("pixel_values") and "pixel_values_videos" not in asked.main:
        names = [name for name in names if name != "pixel_values_videos"]
    if "hidden_states" in names and not asked.takes("grid_thw"):
        names.remove("hidden_states")
    names = [n for n in names if n in asked.main or _described(asked, "vision_config", _IMAGE_FIELDS)]
    if not names:
        return
    name = names[0]
    for height, width in image_sizes(config, asked.config):
        yield from _laid_out(asked, name, config, (height, width))


def _laid_out(asked: Asked, name: str, config: Any, size: tuple[int, int]) -> Iterator[Way]:
    height, width = size
    channels = number(config, "num_channels", "in_channels", "in_chans", default=0)
    channels = channels or number(asked.config, "num_channels", default=3)
    yield from _packed(asked, name, config, size, channels)
    whole = (channels, height, width)
    frames = number(config, "num_frames", "frames_per_clip", default=0)
    if name == "pixel_values_videos" and not frames:
        frames = FRAMES
    shapes: list[tuple[int, ...]] = [(1, frames, *whole)] if frames else []
    shapes += [(1, *whole), *((1, count, *whole) for count in (1, 2, *_tiles(asked.config, height, width)))]
    for sizes in ({}, {"image_sizes": fixed(height, width)}) if asked.takes("image_sizes") else ({},):
        for shape in shapes:
            yield {name: InputSpec(shape, asked.dtype), **sizes, **_sharper(asked)}


def _sharper(asked: Asked) -> Way:
    """The same image in a second size."""
    config = part(asked.config, "high_res_vision_config")
    if config is None or not asked.takes("high_res_pixel_values"):
        return {}
    return {"high_res_pixel_values": InputSpec((1, 3, *image_sizes(config)[0]), asked.dtype)}


def _tiles(config: Any, height: int, width: int) -> list[int]:
    """How many tiles an image can be cut into for the resolutions of the configuration, and the whole."""
    grids = getattr(config, "image_grid_pinpoints", None) or []
    return sorted({1 + -(-high // height) * -(-wide // width) for high, wide in grids})


def image_sizes(*configs: Any) -> list[tuple[int, int]]:
    """What the configuration says; without, sizes from small to large, because some models need more."""
    for config in configs:
        for field in ("image_size", "input_size", "img_size", "max_img_size"):
            size = getattr(config, field, None)
            if isinstance(size, dict):
                size = (size.get("height"), size.get("width"))
            if isinstance(size, int):
                return [(size, size)]
            if isinstance(size, (list, tuple)) and len(size) >= 2 and all(isinstance(s, int) for s in size):
                return [(size[-2], size[-1])]
    return [(size, size) for size in IMAGE_SIZES]


_MERGE_SIZES = ("merge_sizes", "image_merge_sizes")


def _packed(asked: Asked, name: str, config: Any, size: tuple[int, int], channels: int) -> Iterator[Way]:
    """Patches in one row each, with how many there are in time, height and width."""
    patch = number(config, "patch_size", default=16)
    merge = number(config, "spatial_merge_size", "merge_size", default=1)
    grid = [max(merge, side // patch // merge * merge) for side in size]
    count, width = grid[0] * grid[1], channels * patch * patch
    deep = width * number(config, "temporal_patch_size", default=1)
    grids = [n for n in ("image_grid_thw", "grid_thw", "image_grid_hws", "grid_hw") if asked.takes(n)]
    if grids:
        sizes = fixed(*((1, *grid) if grids[0].endswith("thw") else grid))
        more = {
            name: InputSpec((1,), torch.int64, runs=((merge, 1),))
            for name in ("merge_sizes", "image_merge_sizes")
        }
        for shape in ((count, deep), (count, channels, patch, patch), (1, count, deep)):
            yield asked.fits({name: InputSpec(shape, asked.dtype), grids[0]: sizes, **more})
    if asked.takes("aspect_ratio_ids"):
        tiles = number(config, "max_num_tiles", default=4)
        ratio = {"aspect_ratio_ids": ones(1, 1), "aspect_ratio_mask": ones(1, 1, tiles)}
        yield asked.fits({name: InputSpec((1, 1, tiles, channels, *size), asked.dtype), **ratio})
    if asked.takes("spatial_shapes"):
        mask = {"pixel_attention_mask": ones(1, count)}
        yield {name: InputSpec((1, count, width), asked.dtype), "spatial_shapes": fixed(*grid), **mask}
    if name == "flattened_patches":  # each begins with its row and its column
        yield {name: InputSpec((1, count, 2 + width), asked.dtype, below=2, runs=((1, 2),))}
    for positions in ("pixel_position_ids", "image_position_ids"):
        if asked.takes(positions):
            ids = InputSpec((1, count, 2), torch.int64, below=min(grid))
            yield {name: InputSpec((1, count, width), asked.dtype), positions: ids}


# Sound.

_BINS = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim", "feature_size", "n_mels",
         "mel_bins", "input_dim", "num_mel_channels", "input_feat_size")  # fmt: skip


_SOUNDS = ("input_features", "input_values", "audio_values", "audio_mel", "input_audio_embeds", "spectrogram")


_FRAME_MASKS = ("input_features_mask", "feature_attention_mask")


def sounds(asked: Asked) -> Iterator[Way]:
    """Features by frame in three layouts, or samples with or without a channel."""
    config = part(asked.config, "audio_config", "audio_encoder", "speech_config", "encoder_config")
    config = config or asked.config
    known = part(asked.config, "audio_config", "speech_config") is not None
    name = next((n for n in _SOUNDS if asked.takes(n) and (n in asked.main or known)), None)
    if name is None:
        return
    widths = [number(config, field, default=0) for field in _BINS]
    bins, *others = list(dict.fromkeys(width for width in widths if width)) or [80]
    frames = number(config, "max_source_positions", default=0) * 2 or AUDIO_FRAMES
    frames = min(frames, AUDIO_FRAMES)
    channels = number(config, "audio_channels", "num_channels", default=1)
    features: list[tuple[int, ...]] = [(1, bins, frames), (1, frames, bins)]
    longest = number(config, "max_length", "spec_size", default=1000)
    features += [(1, longest, bins), (1, 1, longest, bins), *((1, longest, other) for other in others)]
    samples: list[tuple[int, ...]] = [
        (1, AUDIO_SAMPLES),
        (1, channels, AUDIO_SAMPLES),
        (1, 10 * AUDIO_SAMPLES),
    ]
    for shape in features + samples if name != "input_values" else samples + features:
        masks = {n: ones(1, max(shape)) for n in (*_FRAME_MASKS, *(["padding_mask"] if known else []))}
        masks["audio_mel_mask"] = ones(1, max(shape), dtype=torch.bool)
        lengths = {"feature_lens": InputSpec((1,), torch.int64, runs=((max(shape), 1),))}
        yield asked.fits({name: InputSpec(shape, asked.dtype), **masks, **lengths})


# Time series.


def series(asked: Asked) -> Iterator[Way]:
    """The past of one or several channels; with the features of its times, where the forward has them."""
    if not asked.takes("past_values"):
        return
    config = asked.config
    context = number(config, "context_length", "prediction_length", default=512)
    lags = getattr(config, "lags_sequence", None) or [0]
    length = context + (max(lags) if asked.takes("past_time_features") else 0)
    channels = number(config, "num_input_channels", "input_size", default=1)
    shape = (1, length) if channels == 1 else (1, length, channels)
    way: Way = {"past_values": InputSpec(shape, asked.dtype)}
    times = number(config, "num_time_features", default=0)
    if asked.takes("past_time_features"):
        ahead = number(config, "prediction_length", default=1)
        way["past_time_features"] = InputSpec((1, length, times), asked.dtype)
        way["past_observed_mask"] = ones(*shape, dtype=torch.float32)
        way["future_values"] = InputSpec((1, ahead, *shape[2:]), asked.dtype)
        way["future_time_features"] = InputSpec((1, ahead, times), asked.dtype)
        categories = getattr(config, "cardinality", None) or []
        if getattr(config, "num_static_categorical_features", 0):
            below = min(categories)
            way["static_categorical_features"] = InputSpec((1, len(categories)), torch.int64, below=below)
        real = getattr(config, "num_static_real_features", 0)
        if real:
            way["static_real_features"] = InputSpec((1, real), asked.dtype)
    yield asked.fits(way)
    for other in ((1, length), (1, length, 1)):
        more = {"past_values_padding": ones(1, length), "freq": fixed(0)}
        yield asked.fits({"past_values": InputSpec(other, asked.dtype), **more})


def decisions(asked: Asked) -> Iterator[Way]:
    """States, actions and rewards, one a step."""
    if not asked.takes("states", "actions", "returns_to_go"):
        return
    config, steps = asked.config, asked.length
    yield asked.fits({
        "states": InputSpec((1, steps, number(config, "state_dim", default=1)), asked.dtype),
        "actions": InputSpec((1, steps, number(config, "act_dim", default=1)), asked.dtype),
        "rewards": InputSpec((1, steps, 1), asked.dtype),
        "returns_to_go": InputSpec((1, steps, 1), asked.dtype),
        "timesteps": InputSpec((1, steps), torch.int64, below=number(config, "max_ep_len", default=steps)),
        "attention_mask": ones(1, steps),
    })  # fmt: skip


KINDS: tuple[Callable[[Asked], Iterator[Way]], ...] = (text, images, sounds, series, decisions)
