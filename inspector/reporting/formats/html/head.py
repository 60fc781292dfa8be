"""The head of a page: one sentence, the few numbers that matter, how each came about, and remarks."""

from __future__ import annotations

from collections import Counter
from html import escape

from inspector.reporting.answers import answer
from inspector.reporting.headlines import HEADLINES, provenance
from inspector.reporting.numbers import counted
from inspector.reporting.parts import Content, Finding, Metric
from inspector.reporting.rows import MARKS, exact, headline, shown_findings

FEW = 4
"""Numbers in the head, and remarks that need no folding."""
_SIGNS = {"counted": "●", "simulated": "◆", "bound": "▲", "measured": "■"}
_MEANINGS = {
    "counted": "counted, operator by operator",
    "simulated": "simulated: an allocator played through",
    "bound": "a bound, from a device's limits",
    "measured": "measured on a machine",
}


def head(report: Content) -> str:
    """Sentence, numbers, provenance and remarks of a report."""
    sentence = answer(report)
    first = f'<p class="answer">{escape(sentence)}</p>' if sentence else ""
    items = "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in report.header)
    lines = f'<dl class="provenance">{items}</dl>' if items else ""
    return f"{first}{numbers(report)}{lines}{findings(shown_findings(report))}"


def numbers(report: Content) -> str:
    """The few numbers as cards, the marks that tell how each came about, and all of them in a table."""
    shown = {name: metric for name, metric in report.metrics.items() if metric.shown}
    if not shown:
        return ""
    chosen = _chosen(report.command, shown)
    cards = "".join(_card(name, shown[name]) for name in chosen)
    ways = dict.fromkeys(provenance(name, metric.kind) for name, metric in shown.items())
    marks = "".join(f"<li>{_sign(way)} {escape(_MEANINGS[way])}</li>" for way in _SIGNS if way in ways)
    table = "" if len(shown) == len(chosen) and not any(map(exact, shown.values())) else _all(shown)
    return f'<dl class="numbers">{cards}</dl><ul class="marks">{marks}</ul>{table}'


def _chosen(command: str, shown: dict[str, Metric]) -> list[str]:
    wanted = (*HEADLINES.get(command, ()), *shown)
    return list(dict.fromkeys(name for name in wanted if name in shown))[:FEW]


def _card(name: str, metric: Metric) -> str:
    sign = _sign(provenance(name, metric.kind))
    value = escape(headline(name, metric)) or "not known"
    return (
        f'<div data-card="{escape(name)}"><dt>{escape(_label(name, metric))} {sign}</dt>'
        f'<dd class="value">{value}</dd><dd class="exact">{exact(metric)}</dd></div>'
    )


def _all(shown: dict[str, Metric]) -> str:
    rows = "".join(
        f'<tr data-metric="{escape(name)}"><td>{escape(_label(name, metric))}</td>'
        f'<td class="n value">{escape(headline(name, metric)) or "not known"}</td>'
        f'<td class="n exact">{exact(metric)}</td><td>{escape(str(metric.unit))}</td>'
        f"<td>{_sign(provenance(name, metric.kind))}</td></tr>"
        for name, metric in shown.items()
    )
    heads = '<th scope="col">number</th>' + "".join(
        f'<th scope="col"{" class=n" if number else ""}>{text}</th>'
        for text, number in (("value", True), ("exact", True), ("unit", False), ("how", False))
    )
    return (
        f'<details class="more"><summary>all {counted(len(shown), "number")}</summary>'
        f'<div class="scroll"><table><caption>all numbers</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _label(name: str, metric: Metric) -> str:
    return metric.label or name.replace("_", " ")


def _sign(way: str) -> str:
    """A mark, with its meaning for who points at it or hears it."""
    return f'<span class="sign {way}" role="img" aria-label="{way}" title="{way}">{_SIGNS[way]}</span>'


def findings(of: list[Finding]) -> str:
    """What failed first; of many others only how many, until they are unfolded."""
    failed = [finding for finding in of if finding.status == "fail"]
    others = [finding for finding in of if finding.status != "fail"]
    few = len(others) <= FEW and not any(finding.status == "pass" for finding in others)
    shown = _list(failed + others if few else failed)
    if few or not others:
        return shown
    counts = Counter(finding.status for finding in others)
    words = {"pass": "passed", "warn": "noted", "skip": "skipped"}
    text = ", ".join(f"{counts[status]} {word}" for status, word in words.items() if counts[status])
    return f'{shown}<details class="more"><summary>checks: {text}</summary>{_list(others)}</details>'


def _list(of: list[Finding]) -> str:
    items = "".join(f'<li class="{f.status}"><b>{MARKS[f.status]}</b> {escape(f.sentence)}</li>' for f in of)
    return f'<ul class="findings">{items}</ul>' if items else ""
