"""Colours by what they stand for. Those of kinds are Okabe and Ito's, which people with any colour vision
tell apart; the style sheet has the colours, here are their names."""

from __future__ import annotations

from html import escape

KINDS = (
    "convolution", "linear", "attention", "recurrent", "norm", "activation", "pooling", "embedding",
    "container", "other",
)  # fmt: skip
GROWTH = ("gone", "smaller", "a little smaller", "the same", "a little larger", "larger", "new")
_ORDERS = (KINDS, GROWTH)
SERIES = 12
"""Colours of series that have no meaning of their own."""


def order(names: set[str]) -> list[str]:
    """The names in the order of a legend."""
    known = next((names_ for names_ in _ORDERS if names <= set(names_)), ())
    return [name for name in known if name in names] or sorted(names)


def css(name: str, names: list[str]) -> str:
    """The class of a colour: that of what `name` means, else that of its place among `names`."""
    if any(name in known for known in _ORDERS):
        return f"k-{name.replace(' ', '-')}"
    return f"s-{names.index(name) % SERIES}"


def legend(names: list[str]) -> str:
    """A line that says what each colour stands for."""
    items = "".join(f'<li><i class="{css(name, names)}"></i>{escape(name)}</li>' for name in names)
    return f'<ul class="legend">{items}</ul>' if names else ""
