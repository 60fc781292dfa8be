"""Rules that read the module tree: names that authors give to stages, lists that they keep them in.

A rule takes a `Walk` and returns `Cuts`, or None where it does not hold.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import Any

from torch import nn

from inspector.backbones.partition import Cuts
from inspector.backbones.walk import CHANGE, Walk, join
from inspector.tracing import _torch

_NUMBERED = re.compile(r"(layer|res|stage|block|denseblock|s)_?(\d+)")
_CONTAINERS = ("stages", "layers", "blocks", "features")
_GROUPS = 4


def by_attributes(walk: Walk) -> Cuts | None:
    """The shallowest module on which a rule about its attributes holds: the root, then breadth first
    (`backbone.body` of a detector, `encoder` of a transformer)."""
    for path in breadth_first(walk.model):
        for rule in (numbered, strided, containers, timm_features):
            cuts = rule(walk, path)
            if cuts is not None and not _feeds_more(walk, cuts):
                return cuts
    return None


def breadth_first(model: nn.Module) -> Iterator[str]:
    """Every module's path, the root first, then level by level."""
    queue = deque([("", model)])
    while queue:
        path, module = queue.popleft()
        yield path
        queue.extend((join(path, name), child) for name, child in module.named_children())


def numbered(walk: Walk, path: str) -> Cuts | None:
    """Children `layer1` to `layer4` (`res2` to `res5`, `stage2`, `block1`, `denseblock1`, `s1`): at least
    two, consecutive, none a single layer. All that runs before the first is the stem."""
    children: dict[str, list[tuple[int, str]]] = {}
    for name, child in walk.modules[path].named_children():
        match = _NUMBERED.fullmatch(name)
        if match and len(list(child.children())):
            children.setdefault(match[1], []).append((int(match[2]), name))
    for entries in children.values():
        numbers = [number for number, _ in entries]
        if len(entries) > 1 and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
            names = [name for _, name in entries]
            groups = ((), *((join(path, name),) for name in names))
            return Cuts(groups, f"attributes: stem, {_span(join(path, name) for name in names)}")
    return None


def strided(walk: Walk, path: str) -> Cuts | None:
    """MobileNets of torchvision mark the blocks that reduce (`_is_cn`): a stage begins at each of them,
    and the last layer is one of its own (`_mobilenet_extractor`, detection/backbone_utils.py)."""
    names = [name for name, _ in walk.modules[path].named_children()]
    marks = [_torch.reduces(child) for child in walk.modules[path].children()]
    marked = {type(child) for child, mark in zip(walk.modules[path].children(), marks) if mark}
    outside = (type(module) for name, module in walk.modules.items() if not name.startswith(path))
    if not marked or marked & set(outside):  # the blocks go on elsewhere: SSDLite cuts one in two
        return None
    starts = [0, *(i for i, mark in enumerate(marks) if mark), len(names) - 1]
    bounds = [*dict.fromkeys(starts), len(names)]
    groups = tuple(tuple(join(path, name) for name in names[a:b]) for a, b in pairwise(bounds))
    return Cuts(groups, f"features: torchvision's own extractor ({path or 'children'} marked _is_cn)")


def containers(walk: Walk, path: str) -> Cuts | None:
    """A child `stages`, `layers`, `blocks` or `features` whose children hold blocks: each of them ends a
    stage, what precedes the first is the stem, and parameters behind the last of them in the container
    are one more (the last convolution of an EfficientNet)."""
    for name in _CONTAINERS:
        home = join(path, name)
        children = [
            join(home, child) for child, _ in getattr(walk.modules.get(home), "named_children", list)()
        ]
        stages = [child for child in children if _holds_blocks(walk.modules[child])]
        if len(stages) < 2 or (walk.ran and not _confirmed(walk, stages)):
            continue
        behind = [c for c in children[children.index(stages[-1]) + 1 :] if walk.inside(c)]
        groups = [(), *((stage,) for stage in stages), *([tuple(behind)] if behind else [])]
        return Cuts(tuple(groups), f"attributes: stem, {_span(group[0] for group in groups[1:])}")
    return None


def _holds_blocks(module: nn.Module) -> bool:
    """Whether it is a stage: a plain list of blocks, or a module with such a list as a child. A block has
    children, and is no plain sequence of layers."""
    return any(
        isinstance(container, (nn.Sequential, nn.ModuleList))
        and len(container) > 0
        and all(len(list(c.children())) and not isinstance(c, nn.Sequential) for c in container)
        for container in (module, *module.children())
    )


def _confirmed(walk: Walk, stages: list[str]) -> bool:
    """Whether the pass agrees: the resolution changes, and blocks in most of the stages are residual or
    dense. An Inception block is none: only it joins its branches, not the layers in them."""
    deep = [
        any(type(m) in walk.merging for m in walk.modules[stage].modules() if m is not walk.modules[stage])
        for stage in stages
    ]
    return _changes(walk, stages) and 2 * sum(deep) >= len(deep)


def timm_features(walk: Walk, path: str) -> Cuts | None:
    """timm's `feature_info`: a stage ends with each module that it lists. Where the first of them has
    parameters, those before it are a stem. Not where all are at one resolution (every block of a ViT)."""
    info: Any = getattr(walk.modules[path], "feature_info", None)
    info = list(getattr(info, "info", info)) if isinstance(getattr(info, "info", info), (list, tuple)) else []
    if not all(isinstance(entry, dict) and "module" in entry for entry in info):
        return None
    ends = [join(path, entry["module"]) for entry in info]
    steps = {entry.get("reduction") for entry in info}
    if (
        len(ends) < 2
        or len(steps) < 2
        or not all(e["module"] and end in walk.modules for e, end in zip(info, ends))
    ):
        return None
    groups = [(end,) for end in ends]
    stem = [()] if walk.inside(ends[0]) else []
    return Cuts((*stem, *groups), f"timm feature_info: {_span(ends)}")


def _feeds_more(walk: Walk, cuts: Cuts) -> bool:
    """Whether the stages are only what a larger list of equal blocks reads: the ResNet in front of a
    hybrid transformer."""
    blocks = block_list(walk)
    named = [path for group in cuts.groups for path in group]
    if blocks is None or any(
        path.startswith(f"{blocks}.") or blocks.startswith(f"{path}.") for path in named
    ):
        return False
    return walk.weight(blocks) > sum(walk.weight(path) for path in named) and walk.first[blocks] > max(
        walk.first.get(path, 0) for path in named
    )


def even_split(walk: Walk) -> Cuts | None:
    """Four or more blocks of one class at one resolution (ViT, BERT, GPT-2), in four groups after the
    stem; where four does not divide them, the first groups have one more."""
    blocks = block_list(walk)
    if blocks is None:
        return None
    names = [join(blocks, name) for name, _ in walk.modules[blocks].named_children()]
    size, extra = divmod(len(names), _GROUPS)
    bounds = [i * size + min(i, extra) for i in range(_GROUPS + 1)]
    groups = ((), *(tuple(names[a:b]) for a, b in pairwise(bounds)))
    return Cuts(groups, f"even split of {len(names)} blocks ({blocks})")


def block_list(walk: Walk) -> str | None:
    """The list of equal blocks with the most parameters, or one at least half as large that runs before
    it (an encoder before its decoder); of a model that did not run, none."""
    lists = [path for path in breadth_first(walk.model) if walk.ran and _is_block_list(walk, path)]
    most = max(map(walk.weight, lists), default=0)
    return min((p for p in lists if 2 * walk.weight(p) >= most), key=walk.first.__getitem__, default=None)


def _is_block_list(walk: Walk, path: str) -> bool:
    module = walk.modules[path]
    children = [join(path, name) for name, _ in module.named_children()]
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(children) < _GROUPS:
        return False
    alike = len({type(child) for child in module.children()}) == 1
    deep = all(len(list(child.children())) for child in module.children())
    if not (alike and deep and walk.inside(path)):
        return False
    at = [walk.enters_at(children[0]), *map(walk.leaves_at, children)]
    return None not in at and not _changes(walk, children) and not differs(at[0], at[1])


def _changes(walk: Walk, paths: list[str]) -> bool:
    sizes = [walk.leaves_at(path) for path in paths]
    return any(differs(a, b) for a, b in pairwise(sizes))


def differs(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> bool:
    """Whether the number of positions is another (see CHANGE); of what is unknown, never."""
    if a is None or b is None:
        return False
    large, small = max(prod(a), prod(b)), min(prod(a), prod(b))
    return large >= CHANGE * small


def _span(names: Any) -> str:
    """The first and the last name."""
    listed = list(names)
    return listed[0] if len(listed) == 1 else f"{listed[0]} to {listed[-1]}"
