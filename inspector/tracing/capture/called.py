"""What is wrong with a call that does not fit the signature of what it calls."""

from __future__ import annotations

import inspect as introspection
import re
from collections.abc import Callable, Mapping
from typing import Any

from inspector.core.naming import nearest

_WHOLE = re.compile(r"mask|ids?$|tokens?|labels?|index|indices|positions?|lengths?|targets?")
"""Names of tensors of whole numbers."""
_VALUES = {"bool": "true", "int": "1", "float": "1.0", "str": "TEXT"}
"""Annotations of plain values, each with an example."""


def misfit(
    function: Callable[..., Any], owner: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[str, str] | None:
    """In words what the call lacks or has too much, and what to pass; None where it fits, or nothing is
    known of `function`."""
    try:
        signature = introspection.signature(function)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*args, **kwargs)
        return None
    except TypeError:
        pass
    parameters = signature.parameters
    takes = f"it takes: {', '.join(map(str, parameters.values()))}"
    for name in kwargs:
        if name not in parameters:
            return f"{owner} takes no `{name}`", nearest(name, parameters, takes)
    by_position = [
        one for one in parameters.values() if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if len(args) > len(by_position):
        return f"{owner} takes {len(by_position)} arguments by position, not {len(args)}", takes
    passed = {*kwargs, *(one.name for one in by_position[: len(args)])}
    twice = [one.name for one in by_position[: len(args)] if one.name in kwargs]
    if twice:
        return f"{owner} gets `{twice[0]}` twice, by position and by name", takes
    missing = [
        one for one in parameters.values()
        if one.name not in passed and one.default is one.empty
        and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    ]  # fmt: skip
    if not missing:
        return None
    needs = " and ".join(f"`{one.name}`" for one in missing)
    return f"{owner} needs {needs}", f"add `inputs={list(map(_example, missing))!r}`{_with(missing)}"


def required(function: Callable[..., Any]) -> list[str]:
    """An input of the grammar for each argument that a call must have; none where nothing is known of it."""
    try:
        parameters = introspection.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    various = (introspection.Parameter.VAR_POSITIONAL, introspection.Parameter.VAR_KEYWORD)
    return [_example(one) for one in parameters if one.default is one.empty and one.kind not in various]


def _example(parameter: introspection.Parameter) -> str:
    """An input of the grammar: a plain value where the annotation says so, else a tensor."""
    if (value := _plain(parameter)) is not None:
        return f"{parameter.name}:={value}"
    return f"{parameter.name}={'int64' if _WHOLE.search(parameter.name) else 'float32'}[...]"


def _plain(parameter: introspection.Parameter) -> str | None:
    annotation = parameter.annotation
    return _VALUES.get(annotation if isinstance(annotation, str) else getattr(annotation, "__name__", ""))


def _with(missing: list[introspection.Parameter]) -> str:
    return "" if all(_plain(one) is not None for one in missing) else ", with its dtype and shape"
