"""The rule for a model whose authors named no stages: cut where its resolution changes."""

from __future__ import annotations

from math import prod

from inspector.backbones.partition import Cuts
from inspector.backbones.rules import block_list
from inspector.backbones.walk import CHANGE, Walk, join
from inspector.tracing import _torch

_PATCH = 16
"""A first unit that leaves a sixteenth of the positions or fewer (4x4 patches) is a patch embedding."""


_LONG = 8
"""The last stage of a convolutional network has up to half as many blocks (Darknet-53: 4)."""


def by_resolution(walk: Walk) -> Cuts | None:
    """Units in the order in which they run; a stage begins where the number of positions changes, and the
    backbone ends where it grows again (a decoder) or is pooled to one.

    A unit is a block that joins two activations itself, whatever changes inside; else a module whose
    parts change the resolution once at most and that holds no such block; else its parts are units.
    """
    if not walk.ran:
        return None
    groups = _groups(walk, sorted(_units(walk, ""), key=walk.first.__getitem__))
    if len(groups) < 2 or _is_isotropic(walk, groups):
        return None
    stem = _patch_stem(walk, groups[0])
    groups = [groups[0][:stem], groups[0][stem:], *groups[1:]] if stem else groups
    groups[-1] = _without_final_norm(walk, groups[-1])
    return Cuts(tuple(map(tuple, groups)), f"resolution changes in a {walk.device} forward")


def _is_isotropic(walk: Walk, groups: list[list[str]]) -> bool:
    """Whether the smallest resolution is that of a long list of equal blocks with half of all parameters:
    then those that its stem (XCiT, a hybrid ViT, wav2vec 2.0) or another tower (CLIP) passes through are
    no stages."""
    blocks = block_list(walk)
    if blocks is None or len(list(walk.modules[blocks].children())) < _LONG:
        return False
    size = _size(walk, blocks) or 0
    smaller = any(size >= CHANGE * (_size(walk, unit) or size) for group in groups for unit in group)
    return not smaller and 2 * walk.weight(blocks) >= walk.weight("")


def _without_final_norm(walk: Walk, units: list[str]) -> list[str]:
    """Without the layers of vectors only that follow the last block."""
    blocks = [i for i, unit in enumerate(units) if _is_block(walk, unit)]
    flat = [all(p.ndim < 2 for p in walk.modules[unit].parameters()) for unit in units]
    end = blocks[-1] + 1 if blocks else len(units)
    return units[:end] if all(flat[end:]) else units


def _units(walk: Walk, path: str) -> list[str]:
    children = [
        join(path, name)
        for name, child in _torch.children_of(walk.modules[path]).items()
        if child is not None
    ]
    parts = [unit for child in children if child in walk.first for unit in _units(walk, child)]
    if path and (not parts or not _opens(walk, path, parts)):
        return [path]
    return parts


def _opens(walk: Walk, path: str, parts: list[str]) -> bool:
    steps = _steps(walk, path, parts)
    if _is_block(walk, path):
        return steps > 2  # a whole encoder with skip connections, not a block
    return steps > 1 or any(_is_block(walk, part) for part in parts)


def _steps(walk: Walk, path: str, parts: list[str]) -> int:
    """How often the resolution falls to a new low on the way through `parts`."""
    entry = walk.enters_at(path)
    lowest, count = prod(entry) if entry else None, 0
    for part in sorted(parts, key=walk.first.__getitem__):
        size = _size(walk, part)
        if size and (lowest is None or lowest >= CHANGE * size):
            count += lowest is not None
            lowest = size
    return count


def _is_block(walk: Walk, path: str) -> bool:
    return type(walk.modules[path]) in walk.merging


def _size(walk: Walk, path: str) -> int | None:
    resolution = walk.leaves_at(path)
    return prod(resolution) if resolution else None


def _groups(walk: Walk, units: list[str]) -> list[list[str]]:
    """Units of one resolution together. A unit without parameters that changes it (a pooling) joins what
    follows, or, at the end, what precedes."""
    groups: list[list[str]] = []
    waiting: list[str] = []
    level, shrunk = None, False
    for unit in units:
        if (size := _size(walk, unit)) is None:
            continue
        grows = level is not None and size >= CHANGE * level
        shrinks = level is not None and level >= CHANGE * size
        if not walk.inside(unit) and (grows or shrinks or not groups):
            waiting += [unit] if groups else []  # what prepares the image is no part of the backbone
            continue
        if grows and shrunk:
            break
        if grows or shrinks or not groups:
            groups.append([])
            level = size
        groups[-1] += [*waiting, unit]
        waiting, shrunk = [], shrunk or shrinks
    if groups:
        groups[-1] += waiting
    return groups


def _patch_stem(walk: Walk, group: list[str]) -> int:
    """How many units of the first group lie before its first block, when one unit alone makes patches."""
    entry, size = walk.enters_at(group[0]), _size(walk, group[0])
    if entry is None or size is None or prod(entry) < _PATCH * size:
        return 0
    return next((i for i, unit in enumerate(group) if _is_block(walk, unit)), 0)
