"""How the checks of initialisation speak of many tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

NAMED = 5
"""How many tensors the evidence of a summary names."""


def count(names: list[str], one: str, many: str) -> str:
    """Reads after the first name, which is the finding's subject: "is" or "and 3 more are"."""
    return one if len(names) == 1 else f"and {len(names) - 1} more {many}"


def sample(names: list[str]) -> dict[str, Any]:
    """The evidence about many tensors."""
    return {"count": len(names), "tensors": names[:NAMED]}


def grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """The items by their key, in order."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return dict(groups)
