"""Text from elsewhere (names of modules, files, messages) that a terminal or a CI log must not obey."""

from __future__ import annotations

import re

_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\w*\[)")
"""What a CI log obeys: GitHub's `::error::` at the start of a line, `##[...]`, `##vso[...]` (Azure) and
`##teamcity[...]` anywhere."""


def visible(text: str) -> str:
    r"""`text` on one line, with characters that control, hide or reorder what follows as escapes: ESC is
    `\x1b`, a line break `\n`, a right-to-left override `\u202e`; the same for the marks of CI commands."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return _COMMAND.sub(_escaped, text) if "::" in text or "##" in text else text


def _escaped(match: re.Match[str]) -> str:
    return r"#\x23" if match[0] == "##" else rf"{match[1]}\x3a"


def visible_lines(text: str) -> str:
    """The same line by line: for text that has lines of its own."""
    return "\n".join(map(visible, text.split("\n")))
