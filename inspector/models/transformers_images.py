"""In which ways a transformers model can be given images and videos."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from inspector.models.inputs import InputSpec
from inspector.models.transformers_rules import Asked, Way, configurations, fixed, number, ones, part

IMAGE_SIZES = (224, 640, 1536)
FRAMES = 16
_IMAGE_NAMES = ("pixel_values", "pixel_values_videos", "image", "hidden_states", "flattened_patches")
_IMAGE_FIELDS = ("image_size", "input_size", "patch_size", "num_channels", "backbone_config", "backbone")


def _described(asked: Asked, sub: str, fields: tuple[str, ...]) -> bool:
    return part(asked.config, sub) is not None or any(hasattr(asked.config, name) for name in fields)


def images(asked: Asked) -> Iterator[Way]:
    """A picture in packed patches with its grid, as one image, as several images or frames."""
    config = part(asked.config, "vision_config", "backbone_config", "vision_tower_config") or asked.config
    names = [name for name in _IMAGE_NAMES if asked.takes(name)]
    films = "pixel_values_videos" in asked.main or part(asked.config, "video_config") is not None
    if not asked.takes("pixel_values") and not films:
        names = [name for name in names if name != "pixel_values_videos"]
    if "hidden_states" in names and not asked.takes("grid_thw"):
        names.remove("hidden_states")
    names = [n for n in names if n in asked.main or _described(asked, "vision_config", _IMAGE_FIELDS)]
    if not names:
        return
    name = names[0]
    for size in _built_for(asked) or image_sizes(config, asked.config):
        yield from _laid_out(asked, name, config, size)


def _built_for(asked: Asked) -> list[tuple[int, int]]:
    """The only size that a model of timm within this one takes."""
    patches = (module for module in asked.model.modules() if getattr(module, "strict_img_size", False))
    return [tuple(module.img_size) for module in patches if module.img_size][:1]


def _laid_out(asked: Asked, name: str, config: Any, size: tuple[int, int]) -> Iterator[Way]:
    height, width = size
    if asked.takes("prompt_pixel_values"):  # the example and the image stand one above the other
        height //= 2
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
    if asked.takes("pixel_attention_mask"):  # one value a tile
        yield {
            name: InputSpec((1, 1, *whole), asked.dtype),
            "pixel_attention_mask": ones(1, 1, dtype=torch.bool),
        }
    yield from _unfolded(asked, name, config, size, channels)


def _unfolded(asked: Asked, name: str, config: Any, size: tuple[int, int], channels: int) -> Iterator[Way]:
    """Patches without a grid: flat in a row, or each a small film with its channels last."""
    patch = number(config, "patch_size", default=0)
    if not 0 < patch <= min(size):
        return
    count = (size[0] // patch) * (size[1] // patch)
    deep = number(config, *_DEEP, default=0)
    if deep:
        yield {name: InputSpec((count, deep, patch, patch, channels), asked.dtype)}
    yield {name: InputSpec((1, count, channels * patch * patch), asked.dtype)}
    yield {name: InputSpec((count, channels * patch * patch), asked.dtype)}


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
    """What the configuration says; without, what a configuration in it says, and sizes from small to large,
    because some models need more."""
    for config in configs:
        if (size := _size(config)) is not None:
            return [size]
    inner = [size for one in configurations(configs[0]) if (size := _size(one)) is not None]
    return list(dict.fromkeys([*inner, *((size, size) for size in IMAGE_SIZES)]))


def processed_size(config: Any) -> tuple[int, int] | None:
    """Height and width that the image processor of a model type gives each image; None where it has none,
    keeps the ratio of the sides, or needs a package that is missing."""
    try:
        import transformers
        from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES as listed

        entry = listed.get(config.model_type)
        names = entry.values() if isinstance(entry, dict) else entry or ()
        size = getattr(transformers, next(name for name in names if name)).size
        return size["height"], size["width"]
    except (ImportError, AttributeError, StopIteration, KeyError, TypeError):
        return None


def _size(config: Any) -> tuple[int, int] | None:
    for field in ("image_size", "input_size", "img_size", "max_img_size"):
        size = getattr(config, field, None)
        if isinstance(size, dict):
            size = (size.get("height"), size.get("width"))
        if isinstance(size, int):
            return size, size
        if isinstance(size, (list, tuple)) and len(size) >= 2 and all(isinstance(s, int) for s in size):
            return size[-2], size[-1]
    return None


_DEEP = ("temporal_patch_size", "patch_temporal")
"""Frames of a patch."""
_WINDOW = 4


def _packed(asked: Asked, name: str, config: Any, size: tuple[int, int], channels: int) -> Iterator[Way]:
    """Patches in one row each, with how many there are in time, height and width."""
    patch = number(config, "patch_size", default=16)
    merge = number(config, "spatial_merge_size", "merge_size", "pooling_kernel_size", default=1)
    grid = [max(merge, side // patch // merge * merge) for side in size]
    count, width = grid[0] * grid[1], channels * patch * patch
    deep = width * number(config, *_DEEP, default=1)
    grids = [
        n
        for n in ("image_grid_thw", "grid_thw", "image_grid_hws", "image_grid_hw", "grid_hw")
        if asked.takes(n)
    ]
    if grids:
        sizes = fixed(*((1, *grid) if grids[0].endswith("thw") else grid))
        more = {
            name: InputSpec((1,), torch.int64, runs=((merge, 1),))
            for name in ("merge_sizes", "image_merge_sizes")
        }
        for shape in ((count, deep), (count, channels, patch, patch), (1, count, deep)):
            yield asked.fits({name: InputSpec(shape, asked.dtype), grids[0]: sizes, **more})
        wide = patch * merge  # a patch of patches, its channels last
        grid = [max(1, side // wide) for side in size]
        shape = (grid[0] * grid[1], wide, wide, channels)
        yield asked.fits({name: InputSpec(shape, asked.dtype), grids[0]: fixed(1, *grid)})
    if asked.takes("aspect_ratio_ids"):
        tiles = number(config, "max_num_tiles", default=4)
        ratio = {"aspect_ratio_ids": ones(1, 1), "aspect_ratio_mask": ones(1, 1, tiles)}
        yield asked.fits({name: InputSpec((1, 1, tiles, channels, *size), asked.dtype), **ratio})
    if asked.takes("spatial_shapes"):
        mask = {"pixel_attention_mask": ones(1, count)}
        yield {name: InputSpec((1, count, width), asked.dtype), "spatial_shapes": fixed(*grid), **mask}
    if asked.takes("target_sizes"):  # rows and columns of patches, in windows that are merged twice
        rows, columns = (max(_WINDOW, side // patch // _WINDOW * _WINDOW) for side in size)
        shape = (1, channels, rows * patch, columns * patch)
        yield {name: InputSpec(shape, asked.dtype), "target_sizes": fixed(rows, columns)}
    if asked.takes("image_token_pooling", "image_grids"):  # each token is pooled from 2x2 patches
        rows, columns = (side // patch // 2 for side in size)
        yield {
            name: InputSpec((1, (size[0] // patch) * (size[1] // patch), width), asked.dtype),
            "image_token_pooling": InputSpec((rows * columns, 4), torch.int64, below=count),
            "image_grids": fixed(rows, columns, 0, 0),
            "image_num_crops": fixed(1),
        }
    if name == "flattened_patches":  # each begins with its row and its column
        yield {name: InputSpec((1, count, 2 + width), asked.dtype, below=2, runs=((1, 2),))}
    for positions in ("pixel_position_ids", "image_position_ids"):
        if asked.takes(positions):
            ids = InputSpec((1, count, 2), torch.int64, below=min(grid))
            yield {name: InputSpec((1, count, width), asked.dtype), positions: ids}
