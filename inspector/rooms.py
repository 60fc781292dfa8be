"""A room that can be called: `inspector.trace(...)` although `inspector.trace` is a package."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def callable_room(room: str, home: str, function: str) -> None:
    """Make the package `room` callable as `home.function`, loaded at the first call.

    Importing a subpackage binds its name in `inspector`, over any function of that name.
    """

    class Room(ModuleType):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(home), function)(*args, **kwargs)

    sys.modules[room].__class__ = Room
