"""Models of the timm package, at the input size that their own configuration names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.models.inputs import Inputs, InputSpec
from inspector.models.subject import Recipe


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise InspectError(
            "timm is not installed", "install it with: pip install 'torch-inspector[timm]'"
        ) from error
    return timm


def names() -> list[str]:
    return list(_timm().list_models())


def recipe(name: str, model_args: Mapping[str, Any]) -> Recipe:
    """`convnextv2_tiny`, or `convnextv2_tiny.fcmae_ft_in22k_in1k` for a configuration of its own."""
    timm = _timm()
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        raise InspectError(f"no timm model is called {base!r}", nearest(base, names()))
    if name.endswith("."):
        raise InspectError(f"{name!r} names no configuration", f"write {base} or {base}.TAG")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        named = ", ".join(filter(None, tags)) or "none"
        raise InspectError(f"timm's {base} has no configuration {tag!r}", f"it has: {named}")

    def construct() -> nn.Module:
        return timm.create_model(name, pretrained=False, **model_args)

    return Recipe(
        name=name,
        source="timm",
        construct=construct,
        defaults=lambda model, phase: _inputs(model, model_args),
    )


def _inputs(model: Any, model_args: Mapping[str, Any]) -> Inputs:
    """One image of the configuration's size, unless `in_chans` or `img_size` asked for another."""
    config = getattr(model, "pretrained_cfg", None) or {}
    channels, *size = config.get("input_size", (3, 224, 224))
    size = model_args.get("img_size") or size
    height, width = (size, size) if isinstance(size, int) else size
    return Inputs((InputSpec((1, model_args.get("in_chans", channels), height, width)),))


def rows() -> Iterator[dict[str, Any]]:
    for name in names():
        yield {"spec": f"timm:{name}", "source": "timm", "task": "classification"}
