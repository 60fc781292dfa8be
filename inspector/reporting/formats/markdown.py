"""GitHub-flavoured markdown."""

from __future__ import annotations

import re

from inspector.reporting.answers import answer
from inspector.reporting.parts import Content
from inspector.reporting.rows import MARKS, cells, metric_rows, shown_findings

SUFFIXES = (".md",)
_MARKED = re.compile(r"[\\`*_|~$]|\](?=[(\[:])")
"""Emphasis, code, cells, formulas, and the middle of a link."""
_LINK = re.compile(r"\b(?:(?:https?|ftp):(?=//)|mailto:|xmpp:|javascript:|www\.)", re.IGNORECASE)
"""What GitHub makes a link of by itself, and what another reader might."""
_MENTION = re.compile(r"@(?=\w)")
"""Names and teams, who would be told."""


def render(report: Content) -> str:
    parts = [f"### {escape(report.title)}"]
    if sentence := answer(report):
        parts.append(f"**{escape(sentence)}**")
    if report.header:
        parts.append("\n".join("- " + escape(f"{label}: {text}") for label, text in report.header))
    if rows := metric_rows(report):
        parts.append(table(["metric", "value", "exact"], rows, [False, True, True]))
    for section in report.sections:
        parts.append(f"**{escape(section.title)}**\n\n{table(*cells(section))}")
        if section.note:
            parts.append(escape(section.note))
    if findings := shown_findings(report):
        parts.append("\n".join(f"- **{MARKS[f.status]}** {escape(f.sentence)}" for f in findings))
    parts += [render(added).rstrip() for added in report.added]
    return "\n\n".join(parts) + "\n"


def table(headings: list[str], rows: list[list[str]], numeric: list[bool]) -> str:
    lines = ["| " + " | ".join(map(escape, headings)) + " |"]
    lines.append("|" + "|".join(" ---: " if number else " --- " for number in numeric) + "|")
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    inner = text.lstrip(" ")
    return "&nbsp;" * (len(text) - len(inner)) + escape(inner)


def escape(text: str) -> str:
    """Text that markdown and HTML leave alone."""
    text = _MARKED.sub(r"\\\g<0>", text).replace("&", "&amp;").replace("<", "&lt;")
    text = _LINK.sub(lambda match: f"{match[0][:-1]}&#{ord(match[0][-1])};", text)
    return _MENTION.sub("@<!-- -->", text)
