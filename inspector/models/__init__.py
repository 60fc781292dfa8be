"""A spec string becomes a model with its inputs. One file a source; `resolve` picks the file.

The names below load torch when they are first used: `naming` is here, too, and needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inspector.models.resolve import Model, as_recipe, resolve
    from inspector.models.subject import Recipe, Subject

__all__ = ["Model", "Recipe", "Subject", "as_recipe", "resolve"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from inspector.models.resolve import Model, as_recipe, resolve
    from inspector.models.subject import Recipe, Subject

    found = {"Model": Model, "Recipe": Recipe, "Subject": Subject, "as_recipe": as_recipe, "resolve": resolve}
    globals().update(found)
    return found[name]
