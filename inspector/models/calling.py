"""Calling a method of a model in place of its forward."""

from __future__ import annotations

import inspect as introspection
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.models.inputs import Inputs


def calling(model: nn.Module, method: str, name: str) -> nn.Module:
    """A module whose call is `model.method(...)`: a shallow twin of `model`, which stays untouched.

    Raises InspectError, with the nearest names, where the model (called `name` in the error) has no such
    method.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise InspectError("a TorchScript module is called as it is", "leave out `call=`")
    function = getattr(model, method, None)
    if not callable(function) or isinstance(function, nn.Module):
        own = [key for key in dir(type(model)) if callable(getattr(type(model), key, None))]
        other = [key for key in own if not key.startswith("_") and not hasattr(nn.Module, key)]
        methods = f"it has: {', '.join(['forward', *other[:8]])}"
        raise InspectError(f"{name} has no method {method!r}", nearest(method, other, methods))
    if method == "forward":
        return model
    twin = shallow(model)
    twin.__dict__["forward"] = _Method(twin, method)
    return twin


def shallow(model: nn.Module) -> nn.Module:
    """Another object with the same attributes."""
    twin: nn.Module = object.__new__(type(model))
    twin.__dict__.update(model.__dict__)
    return twin


class _Method:
    """Stands in for the forward of `model` until it is called: inside, the forward is the model's own."""

    def __init__(self, model: nn.Module, method: str) -> None:
        self.model = model
        self.method = method
        self.own = model.__dict__.get("forward")
        with suppress(TypeError, ValueError):
            self.__signature__ = introspection.signature(getattr(model, method))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        attributes = self.model.__dict__
        attributes.pop("forward")
        if self.own is not None:
            attributes["forward"] = self.own
        try:
            return getattr(self.model, self.method)(*args, **kwargs)
        finally:
            attributes["forward"] = self


def accepted(inputs: Inputs, model: nn.Module, method: str) -> Inputs | None:
    """Those of a source's inputs for the forward that `method` takes too; None where it takes none."""
    try:
        parameters = introspection.signature(getattr(model, method)).parameters.values()
    except (TypeError, ValueError):
        return inputs
    if inputs.args or any(one.kind is one.VAR_KEYWORD for one in parameters):
        return inputs
    kept = {key: value for key, value in inputs.kwargs.items() if key in {one.name for one in parameters}}
    return Inputs((), kept) if kept else None
