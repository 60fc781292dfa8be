"""Values of options without typer's machinery for them, where none is needed.

Since version 0.20 or so typer converts every value, also one that was not passed, with pydantic: its import
and a converter for each option take longer than the rest of a start. Texts, listed words, plain paths and
defaults are what they are; everything else is left to typer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

NEEDED = object()
"""Typer must convert this value."""
_CHECKS = ("exists", "resolve_path", "writable", "allow_dash", "path_type")
"""What an option may ask of a path."""


def lightened(parameters: list[Any]) -> list[Any]:
    """The same parameters, whose values typer converts only where it must. Other versions of typer have no
    converters that could be left out: nothing changes there."""
    for parameter in parameters:
        made = getattr(parameter, "get_runtime_param", None)
        done = "get_runtime_param" in vars(parameter)
        if made is not None and not done and hasattr(parameter, "type_descriptor"):
            light = _Light(parameter, made)
            parameter.get_runtime_param = lambda light=light: light
    return parameters


class _Light:
    """Stands for typer's converter of one parameter, which it makes when a value needs it."""

    def __init__(self, parameter: Any, made: Any) -> None:
        self.parameter, self.made = parameter, made

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        plain = converted(self.parameter, value)
        return self.made().coerce(value, param=param, ctx=ctx) if plain is NEEDED else plain


def converted(parameter: Any, value: Any) -> Any:
    """The value as typer would convert it, or NEEDED where typer must."""
    kind, information = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
    several = parameter.multiple or parameter.nargs == -1
    if value is None:
        return () if several else None
    if value is parameter.default:
        return value
    if several:
        inner = get_args(kind)[0] if get_origin(kind) is list else None
        if not isinstance(value, (list, tuple)):
            return NEEDED
        values = [_one(inner, information, entry) for entry in value]
        return NEEDED if any(entry is NEEDED for entry in values) else values
    return _one(kind, information, value)


def _one(kind: Any, information: Any, value: Any) -> Any:
    if not isinstance(value, str) or getattr(information, "parser", None) is not None:
        return NEEDED
    if kind is str:
        return value
    if kind is Path and not any(getattr(information, check, None) for check in _CHECKS):
        return Path(value)
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    return NEEDED
