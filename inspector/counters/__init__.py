"""Other ways to count, each isolated, and why they differ from ours. One adapter a file."""

from __future__ import annotations

from importlib import import_module

from inspector.core.errors import InspectError
from inspector.counters.record import Counter

NAMES = ("ours", "thop", "fvcore", "torch", "torchinfo", "ptflops", "calflops", "deepspeed")
"""In the order of the report; `published` figures, which nobody runs, follow."""


def find(name: str) -> Counter:
    """The adapter called `name`. Raises InspectError with the names that there are."""
    if name not in NAMES:
        raise InspectError(f"no counter is called {name!r}", f"use one of: {', '.join(NAMES)}")
    return import_module(f"inspector.counters.{name}").COUNTER
