"""A self-contained HTML page, and the fragment that notebooks show.

The page needs no network: style, script and charts are in it, and so is the report as JSON, in the element
`report-json`. Without its script it is a plain document with the same numbers.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from inspector.reporting.answers import answer
from inspector.reporting.formats.html.tables import table
from inspector.reporting.parts import Chart, Content, Finding, Section
from inspector.reporting.rows import MARKS, metric_rows, shown_findings
from inspector.reporting.schema import to_dict

SUFFIXES = (".html", ".htm")
_HERE = Path(__file__).parent
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
"""The browser itself refuses every request."""


def render(report: Content) -> str:
    """The whole page."""
    title = escape(report.title)
    body = _Body(charted=True)
    content = body.whole(report)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{_file('fragment.css')}{_file('page.css')}</style></head>\n<body>\n"
        f'<header><h1>{title}</h1></header>\n{body.contents()}<main class="inspector">\n{content}</main>\n'
        f"<footer>{escape(_environment(report))}</footer>\n"
        f"{_data('report-json', to_dict(report.original))}\n{body.scripts()}\n"
        "</body></html>\n"
    )


def fragment(report: Content) -> str:
    """Header, numbers, findings and tables, without the surrounding page, charts and scripts."""
    content = _Body(charted=False).whole(report)
    return f'<style>{_file("fragment.css")}</style><div class="inspector">\n{content}</div>\n'


class _Body:
    """The parts of a page in order; it remembers the headings for the table of contents."""

    def __init__(self, charted: bool) -> None:
        self.charted = charted
        self.headings: list[str] = []
        self.drawn = 0

    def whole(self, report: Content, level: int = 2) -> str:
        parts = [self.summary(report), *(self.section(report, s, level) for s in report.sections)]
        titles = {section.title for section in report.sections}
        parts += [self.chart(chart, level) for chart in report.charts if chart.section not in titles]
        for added in report.added:
            content = self.heading(added.title, level) + self.whole(added, level + 1)
            parts.append(f'<section class="added">{content}</section>')
        return "\n".join(part for part in parts if part) + "\n"

    def summary(self, report: Content) -> str:
        sentence = answer(report)
        first = f'<p class="answer">{escape(sentence)}</p>' if sentence else ""
        items = "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in report.header)
        header = f'<dl class="provenance">{items}</dl>' if items else ""
        return f"{first}{header}{_numbers(report)}{_findings(shown_findings(report))}"

    def section(self, report: Content, section: Section, level: int) -> str:
        charts = "".join(self.chart(c, level + 1) for c in report.charts if c.section == section.title)
        note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
        return f"<section>{self.heading(section.title, level)}{charts}{table(section)}{note}</section>"

    def heading(self, title: str, level: int) -> str:
        if level > 2:
            return f"<h{level}>{escape(title)}</h{level}>"
        self.headings.append(title)
        return f'<h{level} id="part-{len(self.headings)}">{escape(title)}</h{level}>'

    def chart(self, chart: Chart, level: int) -> str:
        if not self.charted:
            return ""
        from inspector.reporting.formats.html.charts import html

        figure = html(chart, f"chart-{self.drawn}")
        self.drawn += 'class="plot"' in figure
        heading = self.heading(chart.title, level)
        return f'<figure aria-label="{escape(chart.title)}">{heading}{figure}</figure>'

    def contents(self) -> str:
        if len(self.headings) < 3:
            return ""
        links = "".join(
            f'<a href="#part-{number}">{escape(title)}</a>' for number, title in enumerate(self.headings, 1)
        )
        return f'<nav aria-label="contents">{links}</nav>\n'

    def scripts(self) -> str:
        """The scripts of the page; those of the charts only where there are any."""
        tables = f"<script>\n{_file('tables.js')}</script>"
        if not self.drawn:
            return tables
        from inspector.reporting.formats.html.charts import script

        return f"{script()}{tables}\n<script>\n{_file('charts.js')}</script>"


def _numbers(report: Content) -> str:
    """A card for each metric: its name, the value for people, the exact value, and how it came about."""
    shown = [(name, metric) for name, metric in report.metrics.items() if metric.shown]
    cards = "".join(
        f'<div class="{metric.kind}" data-metric="{escape(name)}"><dt>{escape(label)}</dt>'
        f'<dd class="value">{escape(value) or "not known"}</dd><dd class="exact">{escape(exact)}</dd>'
        f'<dd class="kind">{_KINDS[metric.kind]}</dd></div>'
        for (name, metric), (label, value, exact) in zip(shown, metric_rows(report))
    )
    return f'<dl class="numbers">{cards}</dl>' if cards else ""


_KINDS = {"exact": "counted", "toleranced": "computed", "noisy": "measured"}


def _findings(findings: list[Finding]) -> str:
    items = "".join(
        f'<li class="{f.status}"><b>{MARKS[f.status]}</b> {escape(f.sentence)}</li>' for f in findings
    )
    return f'<ul class="findings">{items}</ul>' if items else ""


def _environment(report: Content) -> str:
    present = ((name, value) for name, value in report.environment.items() if value is not None)
    return ", ".join(f"{name} {value}" for name, value in present)


def _data(name: str, value: Any) -> str:
    """JSON inside a script element, which only `<` could end."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
