"""`inspect scale` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Run


def test_every_option_reaches_the_simulation(inspect: Run, net_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    code, _, err = inspect(
        "scale", f"{net_file}:Net", "--mesh", "replicate=2,dp=4", "--shard", "hsdp", "--input", "2x3x32x32",
        "--optimizer", "adamw", "--param-dtype", "bfloat16", "--reduce-dtype", "float32", "--no-reshard",
        "--wrap", "conv", "--checkpoint-activations", "conv", "--accumulate", 2, "--gpu", "h100", "--nodes",
        "2x4", "--network", 25, "--attention", "math", "--rank", 5, "-o", file,
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(file.read_text())
    subject, rows = report["subject"], report["tables"]["collectives"]
    assert (subject["mesh"], subject["shard"], subject["gpu"]) == ("replicate=2,dp=4", "hsdp", "H100 SXM")
    assert [row["place"] for row in report["tables"]["ranks"]] == ["replicate=1,dp=1"]
    kinds = {(row["collective"], row["over"]) for row in rows}
    assert kinds == {("all-gather", "dp"), ("reduce-scatter", "dp"), ("all-reduce", "replicate")}
    assert report["metrics"]["step_bound"]["value"] > 0
    assert 0 < report["metrics"]["mfu_bound"]["value"] <= 1


def test_what_does_not_fit_exits_with_1(inspect: Run, net_file: Path) -> None:
    words = "scale", f"{net_file}:Net", "--mesh", "dp=2", "--input", "2x3x32x32", "--fits"
    code, out, _ = inspect(*words, "100MiB")
    assert code == 1
    assert "does not fit: needs" in out
    code, out, _ = inspect(*words, "2GiB")
    assert code == 0


def test_a_page_shows_what_lives_when(inspect: Run, net_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "scale.html"
    code, _, _ = inspect("scale", f"{net_file}:Net", "--mesh", "dp=2", "--input", "2x3x32x32", "-o", file)
    assert code == 0
    assert "What lives when, on the fullest rank" in file.read_text()
