"""A report within the width of a terminal: columns go, lines break between words.

The first column says what a row is and stays; those of `FIRST` go last. What was left out is said below the
table. Only a terminal needs this: a pipe and a file get everything.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from itertools import zip_longest

FIRST = (
    "metric", "params", "parameters", "macs", "share", "status", "verdict", "state", "what", "law", "head",
    "why", "value", "allocated", "needed", "latency", "speedup", "fits", "tokens/s", "longest",
    "samples/s, at most", "before", "after", "change",
)  # fmt: skip
"""Columns that stay longest, the most important first."""
LEAST = 24
"""Characters of the first column, below which another column goes rather than more of its names."""
MOST_LINES = 3
"""Lines of a text in a cell; the end of a longer one is cut off."""
Aligned = Callable[[list[list[str]], Sequence[bool], Sequence[str]], str]


def fitted(
    headings: list[str], rows: list[list[str]], right: list[bool], width: int, aligned: Aligned
) -> tuple[str, list[str]]:
    """The table as text of at most `width` columns where that can be, and the headings that were left out."""
    kept = list(range(len(headings)))
    gone: list[str] = []
    while True:
        text = _drawn(kept, headings, rows, right, aligned)
        excess = max(map(len, text.splitlines())) - width
        if excess <= 0:
            return text, gone
        long = [place for place in kept[1:] if not right[place] and _length(rows, place) > LEAST]
        if long:  # a text of several words gives way before a column does
            widest = max(long, key=lambda place: _length(rows, place))
            rows = _shorter(rows, widest, max(_length(rows, widest) - excess, LEAST))
            continue
        droppable = [place for place in kept[1:] if headings[place].lower() not in FIRST]
        if not droppable and (len(kept) <= 2 or _length(rows, 0) > LEAST):
            room = max(_length(rows, 0) - excess, LEAST if len(kept) > 2 else 12)
            if room < _length(rows, 0):
                rows = _shorter(rows, 0, room)
                continue
        if len(kept) <= 2:
            return text, gone
        least = min(droppable or kept[1:], key=lambda place: _worth(headings[place], place))
        kept.remove(least)
        gone = [heading for place, heading in enumerate(headings) if place not in kept]


def _length(rows: list[list[str]], place: int) -> int:
    return max(len(line) for row in rows for line in row[place].split("\n"))


def _shorter(rows: list[list[str]], place: int, room: int) -> list[list[str]]:
    """The rows with a column of at most `room`: sentences go on in the next line, names lose their middle."""
    longest = _length(rows, place)
    bars = all(set(row[place]) <= _BARS for row in rows)
    cells = [_scaled(row[place], room / longest) if bars else _cut(row[place], room) for row in rows]
    return [[*row[:place], cell, *row[place + 1 :]] for row, cell in zip(rows, cells)]


_BARS = set(" \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588\u2589\u258a\u258b\u258c\u258d\u258e\u258f")


def _scaled(bar: str, scale: float) -> str:
    """A bar that keeps its proportion to the others."""
    return "\u2588" * round(len(bar) * scale)


def _cut(cell: str, room: int) -> str:
    words = cell.split()
    if len(cell) <= room or len(words) < 2 or cell.startswith(" "):
        return shortened(cell, room)
    return textwrap.fill(
        " ".join(shortened(word, room) for word in words), room, max_lines=MOST_LINES, placeholder=" ...",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _lines(row: list[str]) -> list[list[str]]:
    """A row as those that it takes on a screen, where a cell has several lines."""
    if not any("\n" in cell for cell in row):
        return [row]
    return [list(line) for line in zip_longest(*(cell.split("\n") for cell in row), fillvalue="")]


def _drawn(
    kept: list[int], headings: list[str], rows: list[list[str]], right: list[bool], aligned: Aligned
) -> str:
    return aligned(
        [line for row in rows for line in _lines([row[place] for place in kept])],
        [right[place] for place in kept],
        [headings[place] for place in kept],
    )


def _worth(heading: str, place: int) -> tuple[int, int]:
    """How long a column stays: of those that are not of the first, the last goes first."""
    named = heading.lower()
    return (len(FIRST) - FIRST.index(named), 0) if named in FIRST else (0, -place)


def shortened(text: str, room: int) -> str:
    """A name without its middle."""
    if len(text) <= room:
        return text
    head = (room - 3) // 2
    return text[:head] + "..." + text[len(text) - (room - 3 - head) :]


def wrapped(text: str, width: int | None, indent: int) -> str:
    """Text after a label that takes `indent` columns: further lines begin below the first, and no word is
    broken, however long."""
    if width is None or len(text) <= width - indent:
        return text
    lines = textwrap.wrap(text, max(width - indent, 20), break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)
