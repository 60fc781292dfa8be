"""Tables of a file that are parsed when a change must be explained: most comparisons find none, and these are
nine tenths of a table of models."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from inspector.reporting.schema import SCHEMA, plain_content, values

TABLES = ("layers", "ops", "stages")
_ROWS = re.compile(rf'^    "({"|".join(TABLES)})": \[\n((?:      \{{.*\}},?\n)+)    \](?=,?$)', re.MULTILINE)
"""A table as `inspector.reporting.schema.as_text` writes it: a row is a line."""
_CUT = "cut out"


class Later(Sequence[dict[str, Any]]):
    """The rows of a table; the first look at one parses all. Raises InspectError where they are not JSON."""

    def __init__(self, text: str, place: str) -> None:
        self._text, self._place = text, place

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = values(f"[{self._text}]", self._place)
        return rows

    def __getitem__(self, index: Any) -> Any:
        return self._rows[index]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)


def content_of(text: str, place: str) -> dict[str, Any]:
    """What `plain_content` returns, with some tables as Later. A file that is not laid out as our own, or has
    another version, is read at once."""
    start = f'{{\n  "schema": "{SCHEMA}",\n  "command": "table",\n'
    tables = {match[1]: match for match in _ROWS.finditer(text)} if text.startswith(start) else {}
    pieces, end = [], 0
    for name, match in tables.items():
        pieces += [text[end : match.start()], f'    "{name}": "{_CUT}"']
        end = match.end()
    content = plain_content("".join([*pieces, text[end:]]), place)
    held = content.get("tables")
    if not isinstance(held, dict) or any(held.get(name) != _CUT for name in tables):
        return plain_content(text, place)
    return {
        **content,
        "tables": {
            name: Later(tables[name][2], place) if name in tables else table for name, table in held.items()
        },
    }
