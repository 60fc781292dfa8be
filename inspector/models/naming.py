"""Hints that name what the user may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], otherwise: str = "see: inspect models") -> str:
    """`did you mean ...` with up to three of the nearest names, else `otherwise`."""
    names = list(dict.fromkeys(known))
    found = get_close_matches(name, names, n=3, cutoff=0.6)
    found += [n for n in names if name and name in n and n not in found][: 3 - len(found)]
    return f"did you mean {', '.join(found)}?" if found else otherwise
