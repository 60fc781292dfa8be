"""The ordered stages of any backbone: what `freeze --at N` counts. Stage 0 is the stem; a model that
keeps no layers apart before its first stage has that stage as 0."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from inspector.backbones.partition import Backbone, Cuts, Stage, partition
from inspector.backbones.resolution import by_resolution
from inspector.backbones.rules import by_attributes, even_split
from inspector.backbones.walk import Walk, inside, outermost
from inspector.core.errors import InspectError
from inspector.core.naming import select
from inspector.tracing.record import Trace

__all__ = ["GIVEN", "RULES", "Backbone", "Stage", "find_stages"]

GIVEN = "your map"
"""The rule of stages that the user named."""
RULES = (by_attributes, by_resolution, even_split)
"""In this order; the first that holds decides."""


def find_stages(
    model: nn.Module, trace: Trace | None = None, given: Sequence[Sequence[str]] | None = None
) -> Backbone:
    """The stages of `model`: those that `given` names, else what the first of RULES finds.

    trace: a forward pass of the model; without one only the rules about names apply, and no
        resolution is known.
    given: for each stage the globs of its modules and parameters (`naming.select`). What they do not
        name is in `rest`.

    Raises InspectError for a glob that matches nothing or what another stage has, and where no rule
    holds.
    """
    walk = Walk(model, trace)
    if given:
        return _as_given(walk, given)
    cuts = next((cuts for rule in RULES if (cuts := rule(walk)) is not None), None)
    backbone = partition(walk, cuts) if cuts is not None else None
    if backbone is not None and backbone.stages:
        return backbone
    name = type(model).__name__
    if walk.ran:
        hint = "its resolution never changes and it has no list of equal blocks: name them with `stages=`"
        raise InspectError(f"no stages found in {name}", hint)
    raise InspectError(
        f"cannot find the stages of {name} without running it",
        "give `inputs=`, or name the stages yourself with `stages=`",
    )


def _as_given(walk: Walk, given: Sequence[Sequence[str]]) -> Backbone:
    names = [path for path in dict.fromkeys((*walk.modules, *walk.parameters)) if path]
    groups: list[tuple[str, ...]] = []
    owners: dict[str, int] = {}
    for index, patterns in enumerate(given):
        groups.append(outermost(select(names, patterns, "module or parameter", "stages")))
        for name in names:
            if inside(name, groups[index]) and owners.setdefault(name, index) != index:
                raise InspectError(
                    f"`stages=`: {name} is in stage {owners[name]} and in stage {index}",
                    "write narrower globs: a name alone matches at any depth, a dotted path once",
                )
    return partition(walk, Cuts(tuple(groups), GIVEN), fill=False)
