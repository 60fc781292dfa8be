"""`inspect report` as a user meets it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from inspector.reporting.report import Report

pytestmark = pytest.mark.once

Run = Callable[..., tuple[int, str, str]]


def inside(file: Path) -> dict:
    """The JSON that a page carries."""
    found = re.search(r'id="report-json">(.*?)</script>', file.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_page_of_a_model_holds_its_published_numbers(inspect: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    code, out, err = inspect("report", "resnet50", "-o", file)
    assert (code, out, err) == (0, "", "")
    # torchvision publishes 25,557,032 parameters and 4.089 GMACs
    metrics = inside(file)["metrics"]
    assert (metrics["params"]["value"], metrics["macs"]["value"]) == (25_557_032, 4_089_184_256)
    assert "4,089,184,256" in file.read_text()
    assert "229 of 229 operators have a formula" in file.read_text()


def test_the_page_of_a_large_model_stays_below_six_megabytes(inspect: Run, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    assert inspect("report", "vit_h_14", "-o", file)[0] == 0
    assert file.stat().st_size < 6_000_000
    assert inside(file)["metrics"]["params"]["value"] == 632_045_800  # torchvision's num_params


def test_the_page_and_the_json_are_the_same_report(inspect: Run, tmp_path: Path) -> None:
    for name in ("r.html", "r.json"):
        assert inspect("report", "resnet18", "-o", tmp_path / name)[0] == 0
    assert inside(tmp_path / "r.html") == json.loads((tmp_path / "r.json").read_text())
    assert Report.read(tmp_path / "r.json").command == "report"


def test_equal_runs_write_equal_bytes(inspect: Run, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        inspect("report", "resnet18", "-o", tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_html_is_what_it_prints_and_other_formats_work(inspect: Run) -> None:
    code, out, _ = inspect("report", "resnet18")
    assert code == 0
    assert out.startswith("<!doctype html>")
    for format_, start in (
        ("markdown", "### inspect report: resnet18"),
        ("table", "resnet18: "),
        ("csv", "module,"),
    ):
        code, out, _ = inspect("report", "resnet18", "--format", format_)
        assert (code, out.startswith(start)) == (0, True)


def test_reports_of_other_commands_come_along(inspect: Run, tmp_path: Path, net_file: Path) -> None:
    spec = f"{net_file}:build"
    params, stages, page = tmp_path / "p.json", tmp_path / "s.json", tmp_path / "r.html"
    inspect("params", spec, "-o", params)
    inspect("stages", "resnet18", "-o", stages)
    words = ["report", spec, "--input", "1x3x16x16", "--with", params, "--with", stages, "-o", page]
    assert inspect(*words)[0] == 0
    content = inside(page)
    assert content["added"] == [json.loads(params.read_text()), json.loads(stages.read_text())]
    notes = [finding for finding in content["findings"] if finding["check"] == "added"]
    assert [note["subject"] for note in notes] == ["inspect stages"]  # it is about resnet18
    assert "stages: stages" in page.read_text()


def test_time_is_in_the_page_when_asked_for(inspect: Run, tmp_path: Path, net_file: Path) -> None:
    page = tmp_path / "r.html"
    words = ["report", f"{net_file}:build", "--input", "1x3x16x16", "--time", "cpu", "-o", page]
    assert inspect(*words)[0] == 0
    content = inside(page)
    assert content["metrics"]["forward_seconds"]["kind"] == "noisy"
    assert [row["path"] for row in content["tables"]["times"]] == ["", "conv", "norm", "head"]
    assert 'data-choice="time"' in page.read_text()


def test_a_forward_that_raises_writes_what_ran_and_exits_2(inspect: Run, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    code, out, err = inspect("report", "resnet18", "--input", "1x4x8x8", "-o", page)
    assert (code, out) == (2, "")
    assert err.startswith("error: module 'conv1' (Conv2d) expects 3 channels, got 4 in float32[1,4,8,8]")
    assert inside(page)["verdict"] == "fail"
    assert "the totals cover only what ran before it" in page.read_text()


def test_a_page_is_not_thrown_at_a_terminal(inspect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    code, out, err = inspect("report", "resnet18")
    assert (code, out) == (2, "")
    assert "write it to a file: -o report.html" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a complete JSON file"),
        ("[]", "is not an inspector report"),
        ('{"schema": "other/1"}', "its schema is 'other/1'"),
        ('{"schema": "inspector.report/9"}', "newer than inspector.report/2"),
        ('{"schema": "inspector.report/1", "command": "bench"}', "does not follow it"),
    ],
)
def test_a_file_that_is_no_report_stops_it_before_the_work(
    inspect: Run, tmp_path: Path, content: str, message: str
) -> None:
    file, page = tmp_path / "x.json", tmp_path / "r.html"
    file.write_text(content)
    code, out, err = inspect("report", "resnet18", "--with", file, "-o", page)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[0]
    assert err.splitlines()[1].startswith("hint: ")
    assert not page.exists()
