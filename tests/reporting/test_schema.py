"""The versions of the JSON form: the present one explains its columns, the first is still read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from inspector.core.errors import InspectError
from inspector.regress.compare import compare
from inspector.regress.content import side
from inspector.regress.source import read
from inspector.reporting.registry import Unit
from inspector.reporting.report import Report, from_json, metric, metrics
from inspector.reporting.schema import SCHEMA, as_text, plain_content

BASELINE = Path(__file__).parents[2] / "benchmarks" / "baselines" / "torchvision.json"


def old(metrics: dict[str, tuple[Any, str]], tables: dict[str, Any] | None = None, **more: Any) -> str:
    """A file as version 1 wrote it; of each metric its value and what its unit was called."""
    return json.dumps(
        {
            "schema": "inspector.report/1", "command": "profile", "subject": {"name": "net"},
            "environment": {},
            "metrics": {
                name: {"value": value, "unit": unit, "kind": "exact", "direction": metric(name, 0).direction}
                for name, (value, unit) in metrics.items()
            },
            "tables": tables or {}, "findings": [], "verdict": "none", **more,
        }
    )  # fmt: skip


def test_a_column_says_what_it_holds() -> None:
    frame = pd.DataFrame({"op": ["mm"], "macs": [5], "share": [0.5], "own": [1.5], "good": [True]})
    content = Report("profile", {}, {}, {}, {"ops": frame}).to_dict()
    assert content["columns"] == {
        "ops": {
            "op": {"unit": "", "kind": "exact", "direction": "none", "label": "op"},
            "macs": {"unit": "MAC", "kind": "exact", "direction": "lower", "label": "MACs"},
            "share": {"unit": "share", "kind": "exact", "direction": "none", "label": "share"},
            "own": {"unit": "number", "kind": "exact", "direction": "none", "label": "own"},
            "good": {"unit": "", "kind": "exact", "direction": "none", "label": "good"},
        }
    }


def test_one_name_means_what_its_table_says() -> None:
    frame = pd.DataFrame({"modules": ["a b"], "measured": [3]})
    columns = Report("x", {}, {}, {}, {"stages": frame, "measured": frame, "other": frame}).to_dict()[
        "columns"
    ]
    assert [columns[table]["modules"]["unit"] for table in ("stages", "other")] == ["", "count"]
    assert [columns[table]["measured"]["unit"] for table in ("measured", "other")] == ["byte", "second"]


def test_columns_and_labels_survive_a_file() -> None:
    """Also a column and a unit that this version does not know, and a table without rows."""
    tables = {
        "rows": pd.DataFrame({"decibel": [3.5], "macs": [1]}),
        "ops": pd.DataFrame(columns=["op", "macs"]),
    }
    report = Report("bench", {}, {}, metrics({"macs": 1, "train/8/fp32/latency": 0.5}), tables)
    content = report.to_dict()
    content["columns"]["rows"]["decibel"] = {
        "unit": "dB", "kind": "noisy", "direction": "higher", "label": "loudness",
    }  # fmt: skip
    again = from_json(as_text(content), "r.json")
    assert again.to_dict() == content
    assert again.metrics["macs"].label == "MACs"
    assert list(again.tables["ops"].columns) == ["op", "macs"]


@pytest.mark.parametrize(
    ("name", "before", "now"),
    [
        ("params", "element", Unit.COUNT),
        ("unknown_ops", "op", Unit.COUNT),
        ("stages", "stage", Unit.COUNT),
        ("max_batch", "plain", Unit.COUNT),
        ("macs", "MAC", Unit.MAC),
        ("param_bytes", "byte", Unit.BYTE),
        ("forward_seconds", "seconds", Unit.SECOND),
        ("infer/1/fp32/latency", "s", Unit.SECOND),
        ("infer/1/fp32/samples_per_second", "1/s", Unit.PER_SECOND),
        ("infer/1/fp32/drift", "relative L2", Unit.RATIO),
        ("samples_per_second", "rate", Unit.PER_SECOND),
        ("final_loss", "rate", Unit.NUMBER),
        ("scaling_efficiency", "share", Unit.SHARE),
    ],
)
def test_a_unit_of_version_1_gets_its_present_name(name: str, before: str, now: Unit) -> None:
    content = plain_content(old({name: (3, before)}), "r.json")
    assert content["schema"] == SCHEMA
    assert content["metrics"][name]["unit"] == now == metric(name, 3).unit


def test_columns_of_version_1_are_those_of_the_registry() -> None:
    rows = [{"op": "mm", "calls": 2, "macs": None, "x": 1.5}, {"op": "add", "calls": 1, "y": "?"}]
    inner = json.loads(old({"a/latency": (1, "s")}, {"rounds": [{"seconds": 0.5}]}))
    content = plain_content(old({}, {"ops": rows}, added=[inner]), "r.json")
    units = {name: held["unit"] for name, held in content["columns"]["ops"].items()}
    assert units == {"op": "", "calls": "count", "macs": "MAC", "x": "number", "y": ""}
    (added,) = content["added"]
    assert added["columns"]["rounds"]["seconds"]["unit"] == "second"
    assert added["metrics"]["a/latency"]["unit"] == "second"


def test_a_report_of_version_1_compares_with_one_of_version_2(tmp_path: Path) -> None:
    values = {
        "params": (7, "element"),
        "bytes_moved": (8, "byte"),
        "stages": (3, "stage"),
        "macs": (9, "MAC"),
    }
    file = tmp_path / "old.json"
    file.write_text(old(values))
    new = Report(
        "profile", {"name": "net"}, {}, metrics({name: value for name, (value, _) in values.items()})
    )
    found = compare(read(str(file)), side(new.to_dict(), "new"))
    assert {change.metric: change.state for change in found.changes} == dict.fromkeys(values, "ok")
    new.metrics["params"] = metric("params", 8)
    (worst, *_) = compare(read(str(file)), side(new.to_dict(), "new")).changes
    assert (worst.metric, worst.state, worst.delta) == ("params", "regressed", 1)


def test_the_committed_baseline_in_version_1_compares_with_itself_in_version_2(tmp_path: Path) -> None:
    content = json.loads(BASELINE.read_text())
    assert content.pop("schema") == SCHEMA
    del content["columns"]
    file = tmp_path / "old.json"
    file.write_text(as_text({"schema": "inspector.report/1", **content}))
    base = read(str(file))
    found = compare(base, read(str(BASELINE)))
    assert {change.state for change in found.changes} == {"ok"}
    assert base.content == plain_content(BASELINE.read_text(), "base")
    assert base.rows["resnet50"].numbers["params"].unit == "count"
    assert Report.read(BASELINE).columns["models"]["macs"].unit == "MAC"


@pytest.mark.parametrize(
    "change",
    [
        {"columns": []},
        {"columns": {"ops": {"macs": {"unit": "MAC", "kind": "vague", "direction": "lower"}}}},
        {"columns": {"ops": {"macs": {"unit": "MAC", "kind": "exact", "direction": "sideways"}}}},
        {"columns": {"ops": {"macs": {"unit": 3, "kind": "exact", "direction": "lower"}}}},
        {"columns": {"ops": {"macs": {"unit": "MAC", "kind": "exact", "direction": "lower", "label": 1}}}},
    ],
)
def test_columns_that_say_nothing_sound_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    content = {**plain_content(old({}), "r.json"), **change}
    file = tmp_path / "r.json"
    file.write_text(json.dumps(content))
    with pytest.raises(InspectError, match="does not follow it"):
        Report.read(file)
