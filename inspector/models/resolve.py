"""From what a user names to the recipe that builds it; the file of the source is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from inspector.core.errors import InspectError
from inspector.models.subject import Recipe
from inspector.tracing._torch import compiled_from

Model = str | nn.Module | Recipe


def as_recipe(model: Model, model_args: Mapping[str, Any] | None = None, call: str | None = None) -> Recipe:
    """What the Python API takes for a model, as a recipe: a spec, an nn.Module (a compiled one is the
    module that was compiled), or a recipe. `call` is the method to run, the forward without it."""
    recipe = _recipe(model, model_args)
    return recipe if call is None else replace(recipe, call=call)


def _recipe(model: Model, model_args: Mapping[str, Any] | None) -> Recipe:
    if isinstance(model, nn.Module):
        from inspector.models.python import from_module

        compiled = compiled_from(model)
        return from_module(compiled if isinstance(compiled, nn.Module) else model)
    if isinstance(model, Recipe):
        return model
    if isinstance(model, str):
        return resolve(model, model_args)
    raise InspectError(
        f"a model is a spec string or an nn.Module, not a {type(model).__name__}",
        "pass e.g. 'resnet50' or torchvision.models.resnet50()",
    )


def resolve(spec: str, model_args: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe for `resnet50`, `torchvision:NAME[@ENTRY]`, `timm:NAME`, `hf:PATH`,
    `path/to/file.py:ATTR` or `package.module:ATTR`. Raises InspectError with the nearest names."""
    arguments = dict(model_args or {})
    source, colon, name = spec.partition(":")
    if not spec or (colon and not name):
        raise InspectError(f"{spec!r} names no model", "write a name, e.g. resnet50; see: inspect models")
    if colon and source == "timm":
        from inspector.models import timm

        return timm.recipe(name, arguments)
    if colon and source in ("hf", "huggingface"):
        from inspector.models import huggingface

        return huggingface.recipe(name, arguments)
    if (colon and source != "torchvision") or spec.endswith(".py"):
        from inspector.models import python

        return python.recipe(spec, arguments)
    from inspector.models import torchvision

    return torchvision.recipe(name if colon else spec, arguments)
