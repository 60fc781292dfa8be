"""A section as an HTML table; the page's script makes it sortable and searchable."""

from __future__ import annotations

from html import escape
from typing import Any

from inspector.reporting.parts import Section
from inspector.reporting.registry import Form, is_missing, is_number
from inspector.reporting.rows import cells


def table(section: Section) -> str:
    """Cells of numbers carry the number itself in `data-v`, so that 9 M sorts below 1 G; unknown has none.
    A share is also drawn as a bar."""
    headings, rows, numeric = cells(section)
    values = section.frame.rows()
    classes = [' class="n"' if number else "" for number in numeric]
    shares = [section.quantity(name).form is Form.PERCENT for name in section.frame.columns]
    head = "".join(f'<th scope="col"{c}>{escape(h)}</th>' for h, c in zip(headings, classes))
    body = "\n".join(
        "<tr>" + "".join(_cell(*each) for each in zip(row, raw, numeric, shares)) + "</tr>"
        for row, raw in zip(rows, values)
    )
    return (
        f'<div class="scroll"><table><caption>{escape(section.title)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str, value: Any, number: bool, share: bool) -> str:
    if not number:
        return f"<td>{escape(text)}</td>"
    if is_missing(value) or not is_number(value):
        return f'<td class="n">{escape(text)}</td>'
    bar = f' style="--share:{min(max(float(value), 0.0), 1.0):.1%}"' if share else ""
    return f'<td class="n" data-v="{_plain(value)}"{bar}>{escape(text)}</td>'


def _plain(value: Any) -> str:
    number = value.item() if hasattr(value, "item") else value
    return str(number) if isinstance(number, int) else f"{float(number):.6g}"
