"""Hostile names through every format: nothing that shows a report obeys what a name says."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
import xml.etree.ElementTree as ElementTree
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inspector.core.log import Formatter
from inspector.core.visible import visible
from inspector.reporting.formats import FORMATS, renderer
from inspector.reporting.report import Chart, Finding, Metric, Report, Section

HOSTILE = [
    "\x1b]0;owned\x07", "\x1b[2J\x1b[H", "\x9b31m", "\x07\x08\x7f", "a\nb", "a\r\nb", "a\x0bb\x0cc", "a\x85b",
    "a\u2028b\u2029c", "\u202egnp.exe", "\u2066x\u2069", "\u200b\ufeff", "\x00", "\ud800", "\ufffe",
    "\n::error::fake", "::error file=x::fake", "  ::warning::fake", "x ##[error]fake",
    "##vso[task.setvariable variable=x]y", "##teamcity[buildStop]",
    "[click](javascript:alert(1))", "![x](https://evil.example/x.png)", "<javascript:alert(1)>",
    "https://evil.example", "www.evil.example", "@org/team look", "~~~", "|a|b|", "`code`",
    "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1", "a;=1+1", "\uff1d1+1", " =1+1",
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</script><script>alert(1)//", "<!--",
    "]]>", "&lt;b&gt;", "{{7*7}}", "$\\href{javascript:alert(1)}{x}$", "%0A::error::x", "\u001b[31mred",
]  # fmt: skip


def report_of(name: str) -> Report:
    """A report with the name wherever a name can stand."""
    frame = pd.DataFrame({"module": [name, f"  {name}"], name: [name, None], "macs": [1, 2]})
    chart = Chart("bar", name, "module", "macs", frame, section=name, hover=("module",), note=name)
    inner = Report("bench", {"name": name}, {}, {}, findings=[Finding(name, "warn", name, name)])
    return Report(
        command="profile",
        subject={"name": name},
        environment={"python": name},
        metrics={"macs": Metric(1, "MAC", label=name), name: Metric(2, "count")},
        tables={"modules": frame},
        findings=[Finding(name, status, name, name) for status in ("pass", "fail", "warn", "skip")],
        verdict="fail",
        header=[("model", name), (name, name)],
        sections=[Section(name, frame, name)],
        charts=[chart] if set(name) & set("<&\x1b") or name == "plain" else [],  # the slow part
        added=[inner],
    )


@cache
def shown(name: str, form: str) -> str:
    """The report in a format; of a page without the code of its scripts."""
    text = renderer(form)(report_of(name))
    return re.sub(r"(?s)<script>.*?</script>|<style>.*?</style>", "", text) if form == "html" else text


def lines(text: str) -> list[str]:
    """As a terminal or a CI log divides them."""
    return re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", text)


@pytest.mark.once
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_format_holds_a_character_that_controls_or_hides(name: str) -> None:
    for form in FORMATS:
        text = shown(name, form)
        text.encode()  # no half of a surrogate pair
        wrong = {ascii(c) for c in text if not c.isprintable() and c != "\n"}
        assert not wrong, form
        commands = [line for line in lines(text) if re.match(r"\s*::|.*##\w*\[", line)]
        if form not in ("github", "json", "html"):
            assert not commands, form


@pytest.mark.once
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_annotations_say_what_the_report_says_and_nothing_else(name: str) -> None:
    written = lines(shown(name, "github").rstrip("\n"))
    assert [line.partition(" ")[0] for line in written] == ["::error", "::warning"]


@pytest.mark.once
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_markdown_makes_no_link_and_tells_nobody(name: str) -> None:
    text = shown(name, "markdown")
    assert not re.search(r"(?<!\\)\][(\[:]", text)
    assert not re.search(r"https?://|www\.|javascript:", text)
    assert not re.search(r"@\w", text)
    assert "<" not in text.replace("<!-- -->", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}  # three columns


@pytest.mark.once
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_spreadsheet_runs_no_cell(name: str) -> None:
    rows = list(csv.reader(io.StringIO(shown(name, "csv"))))
    assert [len(row) for row in rows] == [3, 3, 3]
    for cell in (part for row in rows for whole in row for part in whole.split(";")):
        assert not re.match(r"\s*[=+\-@\uff1d]", cell)


@pytest.mark.once
def test_a_number_that_is_text_stays_a_number_in_a_spreadsheet() -> None:
    frame = pd.DataFrame({"delta": ["-5", "+3.5e-7", "-12.5%", "-5-5"], "n": [-1, 2, -3, 4]})
    report = Report("diff", {"name": "x"}, {}, {}, sections=[Section("s", frame)])
    assert renderer("csv")(report).splitlines() == ["delta,n", "-5,-1", "+3.5e-7,2", "-12.5%,-3", "'-5-5,4"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.scripts += tag == "script"
        self.wrong += [tag] if tag in ("img", "iframe") else []
        self.wrong += [k for k, v in attrs if k.startswith("on") or str(v).startswith("javascript")]


@pytest.mark.once
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_page_holds_the_scripts_that_it_holds_for_a_plain_name(name: str) -> None:
    parsed = {}
    for key in (name, "plain"):
        parsed[key] = _Tags()
        parsed[key].feed(shown(key, "html"))
        assert not parsed[key].wrong
    if report_of(name).charts:
        assert parsed[name].scripts == parsed["plain"].scripts
    assert "\x1b" not in report_of(name)._repr_html_()


@pytest.mark.once
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_junit_is_xml_with_the_same_number_of_cases(name: str) -> None:
    root = ElementTree.fromstring(shown(name, "junit"))
    assert len(root.findall(".//testcase")) == 4


@pytest.mark.once
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_json_keeps_every_name_as_it_is(name: str) -> None:
    content = json.loads(shown(name, "json"))
    assert content["subject"]["name"] == name
    page = shown(name, "html")
    (inside,) = re.findall(r'(?s)<script[^>]*id="report-json"[^>]*>(.*?)</script>', page)
    assert json.loads(inside) == content


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("layer1.0.conv1", "layer1.0.conv1"),
        ("naïve Größe 层 🎉", "naïve Größe 层 🎉"),
        ("\x1b]0;x\x07", r"\x1b]0;x\x07"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\u202eab", r"\u202eab"),
        ("\ud800", r"\ud800"),
        ("::error::x", r"\x3a:error::x"),
        ("std::vector", "std::vector"),
        ("##[error]x", r"#\x23[error]x"),
        ("## heading", "## heading"),
    ],
)
def test_only_what_acts_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.once
def test_the_terminal_log_and_errors_are_escaped_too(inspect: Any, tmp_path: Path) -> None:
    code, _, err = inspect("params", f"{tmp_path}/\x1b]0;owned\x07.pth")
    assert code == 2
    assert "\x1b" not in err
    assert r"\x1b]0;owned\x07" in err
    record = logging.LogRecord("inspector", 30, "f", 1, "a\x1b[2J\n::error::b", (), None)
    assert r"a\x1b[2J" in Formatter().format(record)
    assert "\n::" not in Formatter().format(record)
    assert "\x1b" not in repr(report_of("\x1b[2J"))
    assert "\x1b" not in str(report_of("\x1b[2J"))
