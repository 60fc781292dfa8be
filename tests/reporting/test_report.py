"""Reports as files: what is written is read again, and nothing else is."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import pytest

from inspector.core.errors import InspectError
from inspector.reporting.report import Finding, Metric, Report
from inspector.reporting.tables import Table


def sample() -> Report:
    return Report(
        "profile",
        {"name": "net", "inputs": ["float32[1,3]"]},
        {"torch": "2.15.0"},
        {"macs": Metric(120, "MAC", lower_bound=True), "seconds": Metric(0.5, "second", "noisy")},
        {"ops": Table.of([{"op": "mm", "calls": 2, "macs": None}])},
        [Finding("coverage", "warn", "layer1", "unknown", {"calls": 1})],
        "fail",
    )


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    file.write_text(sample().to_json())
    found = Report.read(file)
    assert found.to_dict() == sample().to_dict()
    assert found.metrics["macs"].lower_bound


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: "", "not a complete JSON"),
        (lambda text: text[:-20], "not a complete JSON"),
        (lambda text: text.replace("120", "NaN"), "NaN is not JSON"),
        (lambda text: text.replace("report/2", "report/3"), "newer than"),
        (lambda text: text.replace("inspector.report/2", "other/1"), "is not an inspector report"),
        (lambda text: "[1, 2]", "is not an inspector report"),
        (lambda text: json.dumps({"schema": "inspector.report/1"}), "does not follow it"),
        (lambda text: text.replace('"status"', '"state"'), "does not follow it"),
        (lambda text: text.replace("120", '"many"'), "the metric 'many' is not a number"),
        (lambda text: text.replace("120", "1e999"), "the metric inf is not a number"),
        (lambda text: text.replace('"exact"', '"<b>"'), "a metric of kind '<b>'"),
        (lambda text: text.replace('"warn"', '"shout"'), "a finding with the status 'shout'"),
        (lambda text: text.replace('"layer1"', "5"), "a finding whose check, subject or message is not text"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path: Path, change, said: str) -> None:
    file = tmp_path / "r.json"
    file.write_text(change(sample().to_json()))
    with pytest.raises(InspectError) as caught:
        Report.read(file)
    assert said in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InspectError, match="no file"):
        Report.read(tmp_path / "none.json")


def test_a_metric_is_an_attribute() -> None:
    report = sample()
    assert report.macs == 120
    assert "macs" in dir(report)
    with pytest.raises(AttributeError, match="no attribute and no metric 'mcas'"):
        report.mcas  # noqa: B018
    assert copy.deepcopy(report).macs == 120
    assert pickle.loads(pickle.dumps(report)).to_dict() == report.to_dict()
