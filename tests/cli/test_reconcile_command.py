"""`inspect reconcile` and `inspect profile --counter` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.once


@pytest.fixture
def small(tmp_path: Path) -> str:
    file = tmp_path / "small.py"
    file.write_text(
        "from torch import nn\n\n\ndef build(width=4):\n"
        "    return nn.Sequential(nn.Linear(10, width), nn.BatchNorm1d(width))\n"
    )
    return f"{file}:build"


def test_a_users_file_each_counter_in_a_process_of_its_own(inspect, small: str) -> None:
    words = ("--input", "1x10", "--counter", "thop", "--model-arg", "width=5")
    code, out, err = inspect("reconcile", small, *words, "--format", "json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    rows = {row["counter"]: row for row in content["tables"]["counters"]}
    assert [rows[name]["macs"] for name in ("ours", "thop")] == [50, 50 + 4 * 5]
    assert rows["thop"]["unexplained"] == 0
    assert rows["thop"]["seconds"] > 0
    assert rows["thop"]["peak_bytes"] > 1e8
    assert content["tables"]["causes"] == [
        {
            "counter": "thop",
            "cause": "counts normalisation",
            "operator": "normalisation",
            "amount": 20,
            "modules": 1,
            "largest_module": "1",
        }
    ]


def test_every_format_shows_rows_and_reasons(inspect, small: str, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    words = ("reconcile", small, "--input", "1x10", "--counter", "published")
    for form in ("table", "markdown", "csv", "html"):
        code, out, _ = inspect(*words, "--timeout", "0.05", "--format", form)
        assert code == 0
        assert "timed out" in out or form == "csv"
    assert inspect(*words, "--timeout", "0.05", "-o", file)[:2] == (0, "")
    assert json.loads(file.read_text())["command"] == "reconcile"


def test_profile_with_another_counter(inspect, small: str) -> None:
    code, out, err = inspect("profile", small, "--input", "1x10", "--counter", "thop", "--format", "json")
    assert (code, err) == (0, "")
    content = json.loads(out)
    assert content["command"] == "profile"
    assert content["subject"]["counter"] == "thop"
    assert content["metrics"]["macs"]["value"] == 40 + 4 * 4
    assert content["metrics"]["flops"]["value"] is None
    modules = {row["path"]: row for row in content["tables"]["modules"]}
    assert [modules[path]["macs"] for path in ("", "0", "1")] == [56, 40, 16]
    assert modules[""]["flops"] is None
    assert modules[""]["share"] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("reconcile", "resnet18", "--counter", "thopp"), "--counter 'thopp' is unknown"),
        (("reconcile", "resnet18", "--timeout", "0"), "a time-out of 0 s makes no sense"),
        (("reconcile", "resnet18", "--timeout", "nan"), "a time-out of nan s makes no sense"),
        (("reconcile", "resnet18", "--table", "nowhere.csv"), "cannot read nowhere.csv"),
        (("reconcile", "resnett18"), "no torchvision model is called 'resnett18'"),
        (("reconcile", "resnet18", "--input", "1x4x224x224"), "got 4 in float32[1,4,224,224]"),
        (("profile", "resnet18", "--counter", "nobody"), "--counter 'nobody' is unknown"),
        (("profile", "resnet18", "--counter", "thop", "--phase", "train"), "thop counts a forward only"),
        (("profile", "resnet18", "--counter", "thop", "--strict"), "--strict applies to our own count"),
        (
            ("profile", "resnet18", "--counter", "thop", "--device", "cpu"),
            "--device applies to our own count",
        ),
        (
            ("profile", "resnet18", "--counter", "thop", "--save-trace", "t.json"),
            "--save-trace applies to our own count",
        ),
    ],
)
def test_bad_input_is_one_line_and_a_hint(inspect, words: tuple[str, ...], said: str) -> None:
    code, out, err = inspect(*words)
    lines = err.strip().splitlines()
    assert (code, out) == (2, "")
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert lines[1].startswith("hint: ")
