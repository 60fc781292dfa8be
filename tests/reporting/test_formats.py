"""Every format renders the same hand-made report; unknown is never written as 0."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import inspector.reporting.formats
from inspector.core.errors import InspectError
from inspector.reporting.formats import FORMATS, format_of, renderer
from inspector.reporting.formats.table import _tabulated, aligned, render, table
from inspector.reporting.numbers import si, size, written
from inspector.reporting.registry import Form
from inspector.reporting.report import Report


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.000 k"),
        (4_089_184_256, "4.089 G"),
        (25_557_032, "25.56 M"),
        (999_949, "999.9 k"),
        (999_960, "1.000 M"),
        (844_193_001_897_984, "844.2 T"),
        (10**24, "1000 Z"),
        (-1500, "-1.500 k"),
    ],
)
def test_large_numbers_read_with_four_digits(value: int, text: str) -> None:
    assert si(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.000 KiB"), (102_228_128, "97.49 MiB"), (2**30, "1.000 GiB")],
)
def test_bytes_read_with_binary_prefixes(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (0.0123, Form.DURATION, "12.30 ms"),
        (0.0, Form.DURATION, "0 s"),
        (1.5, Form.DURATION, "1.500 s"),
        (0.99996, Form.DURATION, "1.000 s"),
        (4.56e-4, Form.DURATION, "456.0 us"),
        (3e-10, Form.DURATION, "0.3000 ns"),
        (12345.6, Form.DIGITS, "12,346"),
        (9.8765, Form.DIGITS, "9.877"),
        (2.13e-4, Form.SCIENTIFIC, "2.1e-04"),
        (0.0, Form.SCIENTIFIC, "0"),
        (0.453, Form.PERCENT, "45.3%"),
        (1.8549, Form.TIMES, "1.85x"),
        (None, Form.DURATION, ""),
    ],
)
def test_measured_numbers_read_as_people_write_them(value: float | None, form: Form, text: str) -> None:
    assert written(value, form) == text


def test_a_missing_number_is_unknown_and_not_zero() -> None:
    assert written(None, Form.SI) == "unknown"
    assert written(float("nan"), Form.PERCENT) == ""
    assert written(0, Form.SI) == "0"


def test_json_keeps_the_contract_and_has_no_nan(report: Report) -> None:
    content = json.loads(renderer("json")(report), parse_constant=pytest.fail)
    assert list(content) == [
        "schema", "command", "subject", "environment", "metrics", "columns", "tables", "findings",
        "verdict",
    ]  # fmt: skip
    assert content["schema"] == "inspector.report/2"
    assert content["metrics"]["macs"] == {
        "value": 4_089_184_256, "unit": "MAC", "kind": "exact", "direction": "lower", "label": "MACs",
        "lower_bound": True,
    }  # fmt: skip
    assert content["metrics"]["ratio"]["value"] is None
    assert content["tables"]["modules"][1]["macs"] is None
    assert content["findings"][1]["evidence"] == {"by": None}


def test_text_shows_provenance_numbers_and_findings(report: Report) -> None:
    text = renderer("table")(report)
    assert "model  <b>toy</b>" in text
    assert "at least 4.089 G  4,089,184,256" in text
    assert "FAIL  layer1: moved by 3" in text
    assert "unknown" in text
    assert "\x1b[" not in text
    assert "\x1b[31m" in render(report, color=True)


def test_text_fits_a_narrow_terminal_by_shortening_names(report: Report) -> None:
    report.sections[0].frame["module"][0] = "a_very_long_module_path.with.many.parts.inside"
    lines = table(report.sections[0], 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert "..." in lines[2]


def test_markdown_is_one_table_and_escapes_names(report: Report) -> None:
    text = renderer("markdown")(report)
    assert "| --- | ---: | ---: | ---: |" in text
    assert "&nbsp;&nbsp;&lt;script>\\|x\\_1" in text
    assert "<b>" not in text


def test_csv_has_plain_numbers_and_empty_cells_for_unknown(report: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(renderer("csv")(report))))
    assert rows[0]["macs"] == "4089184256"
    assert rows[1]["macs"] == ""


def test_html_is_one_page_that_escapes_names(report: Report) -> None:
    text = renderer("html")(report)
    HTMLParser().feed(text)
    assert text.startswith("<!doctype html>")
    assert "<script>|" not in text
    assert "&lt;script&gt;" in text
    assert "://" not in text
    tables = re.findall(r"<table>.*?</table>", report._repr_html_(), re.DOTALL)
    assert len(tables) == 2  # all numbers, and the section
    assert all(shown in text for shown in tables)


def test_a_notebook_gets_the_numbers_without_scripts(report: Report) -> None:
    text = report._repr_html_()
    assert "<script" not in text
    assert "at least 4.089 G" in text
    assert "4,089,184,256" in text


@pytest.mark.parametrize("name", FORMATS)
def test_equal_reports_render_to_equal_bytes(report: Report, name: str) -> None:
    assert renderer(name)(report) == renderer(name)(report)


def test_the_suffix_of_a_file_chooses_its_format() -> None:
    assert [format_of(f"x{end}") for end in (".md", ".JSON", ".csv", ".html", ".txt")] == [
        "markdown", "json", "csv", "html", "table",
    ]  # fmt: skip
    with pytest.raises(InspectError, match="no format has the suffix"):
        format_of("x.xls")
    with pytest.raises(InspectError, match="unknown format"):
        renderer("yaml")


def test_a_report_is_useful_in_python(report: Report) -> None:
    assert report.to_frame()["module"].tolist() == report.tables["modules"]["module"]
    with pytest.raises(InspectError, match="no table is called 'x'"):
        report.to_frame("x")
    assert "macs=4089184256" in repr(report)
    assert "4.089 G" in str(report)


def test_a_format_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    """GIVEN a new file in the folder of formats, THEN its name, its suffix and the help know it."""
    formats = tmp_path / "formats"
    shutil.copytree(Path(inspector.reporting.formats.__file__).parent, formats)
    (formats / "yaml_.py").write_text(
        'SUFFIXES = (".yml",)\n\n\ndef render(report):\n    return report.command\n'
    )
    spec = importlib.util.spec_from_file_location("copied", formats / "__init__.py")
    copied = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "copied", copied)
    spec.loader.exec_module(copied)
    assert list(copied.FORMATS) == sorted([*FORMATS, "yaml"])
    assert copied.renderer(copied.format_of("x.yml"))(report) == "profile"


def test_the_help_of_a_command_lists_every_format() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "inspector", "profile", "--help"], capture_output=True, text=True, check=True
    )
    assert "|".join(FORMATS) in " ".join(done.stdout.split())


def test_a_table_without_tabulate_is_what_tabulate_makes_of_it() -> None:
    rows = [["a", "1", ""], ["  longer name", "12,345", "x y"], ["", "-", "9 -"]]
    for right in ((False, True, False), (True, True, True)):
        for headings in ((), ("h", "a long heading", "c")):
            assert aligned(rows, right, headings) == _tabulated(rows, right, headings)
    assert aligned([["é", "1"]], (False, True)) == _tabulated([["é", "1"]], (False, True), ())
