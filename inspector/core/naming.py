"""Names of models, layers and tensors: globs that select them, suggestions for misspelt ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from inspector.core.errors import InspectError


def nearest(name: str, choices: Iterable[str], otherwise: str = "see: inspect models") -> str:
    """`did you mean ...` with up to three of the nearest names, else `otherwise`."""
    names = list(dict.fromkeys(choices))
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    close += [n for n in names if name and name in n and n not in close][: 3 - len(close)]
    return f"did you mean {', '.join(close)}?" if close else otherwise


def nearest_globs(pattern: str, paths: Sequence[str], otherwise: str) -> str:
    """The same for a glob of dotted paths: globs that select some, with a name put right: `layer1.*` for
    `layr1.*`."""
    stem = pattern.rstrip("*.")
    rest = pattern[len(stem) :]
    parts: dict[str, None] = {}
    for path in paths:
        names = path.split(".")
        parts |= dict.fromkeys(".".join(names[: end + 1]) for end in range(len(names)))
        parts |= dict.fromkeys(names[-2:])
    close = get_close_matches(stem, parts, n=20, cutoff=0.6)
    close += [part for part in parts if stem and stem in part]
    fitting = [f"{part}{rest}" for part in close if any(matches(path, f"{part}{rest}") for path in paths)]
    return f"did you mean {', '.join(list(dict.fromkeys(fitting))[:3])}?" if fitting else otherwise


def matches(path: str, pattern: str) -> bool:
    """Whether a glob selects a dotted path: the whole path (`layer1.*`, `*` crosses dots), or, for a
    pattern without a dot, also the last part alone at any depth (`conv*` selects `layer1.0.conv1`)."""
    return fnmatchcase(path, pattern) or (
        "." not in pattern and fnmatchcase(path.rpartition(".")[2], pattern)
    )


def texts(values: object, name: str) -> list[str]:
    """A list of strings, as an option, a settings file or Python gives it; one string is a list of one.
    Raises InspectError that calls it `name`."""
    listed = list(values) if isinstance(values, (list, tuple)) else [values]
    if not all(isinstance(value, str) and value for value in listed):
        raise InspectError(
            f"{name} is a list of names or globs, not {values!r}", "e.g. ['conv1', 'layer1.*']"
        )
    return [str(value) for value in listed]


def select(paths: Iterable[str], patterns: Sequence[str], what: str, keyword: str) -> list[str]:
    """The paths that some pattern selects, in their own order; a pattern that is one of them means it
    alone (`conv1` is not `layer1.0.conv1`). A pattern that selects none is an InspectError that names
    the keyword and the nearest of the paths; `what` is e.g. "parameter"."""
    names = list(dict.fromkeys(paths))
    exact = set(names).intersection(patterns)
    globs = [pattern for pattern in patterns if pattern not in exact]
    for pattern in globs:
        if not any(matches(path, pattern) for path in names):
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            otherwise = f"there are: {shown}" if names else f"there is no {what}"
            raise InspectError(
                f"`{keyword}=` {pattern!r} matches no {what}", nearest_globs(pattern, names, otherwise)
            )
    return [path for path in names if path in exact or any(matches(path, glob) for glob in globs)]
