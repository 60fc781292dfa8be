"""A self-contained HTML page, and the fragment that notebooks show.

The page needs no network: style, script and charts are in it, and so is the report as JSON, in the element
`report-json`. Without its script it is a plain document with the same numbers.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from inspector.reporting.formats.html.head import head
from inspector.reporting.formats.html.tables import table
from inspector.reporting.parts import Chart, Content, Section
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
    command, _, name = report.title.partition(": ")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{_file('fragment.css')}{_file('page.css')}{body.styles()}</style>"
        f'</head>\n<body>\n<header><p class="command">{escape(command)}</p><h1>{escape(name) or title}</h1>'
        f'</header>\n{body.contents()}<main class="inspector">\n{content}</main>\n'
        f"<footer>{escape(_environment(report))}</footer>\n"
        f"{_data('report-json', to_dict(report.original))}\n{body.scripts()}\n"
        "</body></html>\n"
    )


def fragment(report: Content) -> str:
    """Header, numbers, findings and tables, without the surrounding page, charts and scripts."""
    content = _Body(charted=False).whole(report)
    return f'<style>{_file("fragment.css")}</style><div class="inspector">\n{content}</div>\n'


class _Body:
    """The parts of a page in order; it remembers the headings, for the contents, and what is drawn."""

    def __init__(self, charted: bool) -> None:
        self.charted = charted
        self.headings: list[str] = []
        self.kinds: set[str] = set()
        self.drawn = 0

    def whole(self, report: Content, level: int = 2) -> str:
        titles = {section.title for section in report.sections}
        charts = [*report.more_charts(), *report.charts] if self.charted else []
        parts = [head(report)]
        parts += [self.chart(chart, level) for chart in charts if not {chart.section, chart.after} & titles]
        for section in report.sections:
            parts.append(self.section(section, [c for c in charts if c.section == section.title], level))
            parts += [self.chart(chart, level) for chart in charts if chart.after == section.title]
        for added in report.added:
            content = self.heading(added.title, level) + self.whole(added, level + 1)
            parts.append(f'<section class="added">{content}</section>')
        return "\n".join(part for part in parts if part) + "\n"

    def section(self, section: Section, charts: list[Chart], level: int) -> str:
        heading = self.heading(section.title, level)
        drawn = "".join(self.chart(chart, level + 1) for chart in charts)
        note = f'<p class="note">{escape(section.note)}</p>' if section.note else ""
        return f"<section>{heading}{drawn}{table(section)}{note}</section>"

    def heading(self, title: str, level: int) -> str:
        if level > 2:
            return f"<h{min(level, 6)}>{escape(title)}</h{min(level, 6)}>"
        self.headings.append(title)
        return f'<h{level} id="part-{len(self.headings)}">{escape(title)}</h{level}>'

    def chart(self, chart: Chart, level: int) -> str:
        from inspector.reporting.formats.html.charts import html

        heading = self.heading(chart.title, level)
        figure = html(chart, f"chart-{self.drawn}")
        self.drawn += 1
        self.kinds.add(chart.kind)
        return f'<figure aria-label="{escape(chart.title)}">{heading}{figure}</figure>'

    def contents(self) -> str:
        if len(self.headings) < 3:
            return ""
        links = "".join(
            f'<a href="#part-{number}">{escape(title)}</a>' for number, title in enumerate(self.headings, 1)
        )
        return f'<nav class="contents" aria-label="contents">{links}</nav>\n'

    def styles(self) -> str:
        """The styles of the charts, only where there are any."""
        if not self.kinds:
            return ""
        from inspector.reporting.formats.html.charts import style

        return style(self.kinds)

    def scripts(self) -> str:
        """The scripts of the page; those of the charts only where there are any."""
        tables = f"<script>\n{_file('tables.js')}</script>"
        if not self.kinds:
            return tables
        from inspector.reporting.formats.html.charts import script

        return f"{tables}\n{script(self.kinds)}"


def _environment(report: Content) -> str:
    present = ((name, value) for name, value in report.environment.items() if value is not None)
    return ", ".join(f"{name} {value}" for name, value in present)


def _data(name: str, value: Any) -> str:
    """JSON inside a script element, which only `<` could end."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
