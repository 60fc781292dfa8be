"""A spec string becomes a model with its inputs. One file a source; `specs` picks the file.

The names are loaded when they are first used: what reads the headers of files alone needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspector.models.specs import Model, as_recipe, resolve
    from inspector.models.subject import Recipe, Subject

__all__ = ["Model", "Recipe", "Subject", "as_recipe", "resolve"]

_FILES = {
    "Model": "specs",
    "Recipe": "subject",
    "Subject": "subject",
    "as_recipe": "specs",
    "resolve": "specs",
}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    return value
