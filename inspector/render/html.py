"""A self-contained HTML page, and the fragment that notebooks show."""

from __future__ import annotations

from html import escape

from inspector.render.rows import MARKS, cells, metric_rows, shown_findings
from inspector.report import Report

_STYLE = """
.inspector{font:14px/1.5 system-ui,sans-serif;color-scheme:light dark;max-width:72rem;margin:auto}
.inspector .scroll{overflow-x:auto}
.inspector table{border-collapse:collapse;margin:.75rem 0;font-variant-numeric:tabular-nums}
.inspector th,.inspector td{padding:.15rem .6rem;text-align:left;white-space:pre}
.inspector th{border-bottom:1px solid}
.inspector .n{text-align:right}
.inspector dt{opacity:.7}.inspector dd{margin:0 0 .25rem}
"""


def render(report: Report) -> str:
    title = escape(f"inspect {report.command}: {report.subject.get('name', '')}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n{fragment(report)}{_charts(report)}"
        "</body></html>\n"
    )


def _charts(report: Report) -> str:
    if not report.charts:
        return ""
    from inspector.render.charts import html

    return f'<div class="inspector">{html(report.charts)}</div>'


def fragment(report: Report) -> str:
    """Header, metrics, tables and findings, without a page around them."""
    parts = [f'<style>{_STYLE}</style><div class="inspector">']
    if report.header:
        items = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in report.header)
        parts.append(f"<dl>{items}</dl>")
    if rows := metric_rows(report):
        parts.append(_table(["metric", "value", "exact"], rows, [False, True, True]))
    for section in report.sections:
        parts.append(f"<h2>{escape(section.title)}</h2>{_table(*cells(section))}")
        if section.note:
            parts.append(f"<p>{escape(section.note)}</p>")
    if findings := shown_findings(report):
        items = "".join(
            f"<li><b>{MARKS[f.status]}</b> {escape(f.subject + ': ' if f.subject else '')}"
            f"{escape(f.message)}</li>"
            for f in findings
        )
        parts.append(f"<ul>{items}</ul>")
    return "\n".join([*parts, "</div>\n"])


def _table(headings: list[str], rows: list[list[str]], numeric: list[bool]) -> str:
    classes = [' class="n"' if number else "" for number in numeric]
    head = "".join(f"<th{c}>{escape(h)}</th>" for h, c in zip(headings, classes))
    body = "".join(
        "<tr>" + "".join(f"<td{c}>{escape(v)}</td>" for v, c in zip(row, classes)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
