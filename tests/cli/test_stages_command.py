"""`inspect stages` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Run = Callable[..., tuple[int, str, str]]


def test_the_table_shows_each_stage_and_the_rule(inspect: Run) -> None:
    code, out, _ = inspect("stages", "resnet50")
    assert code == 0
    assert "rule   attributes: stem, layer1 to layer4" in out
    rows = [line.split() for line in out.splitlines()]
    # 64 * 3 * 49 + 128 = 9536 of 25,557,032 parameters
    assert ["0", "conv1", "bn1", "relu", "maxpool", "9.536", "k", "0.0%", "56x56"] in rows
    assert any(row[:1] == ["rest"] for row in rows)


def test_json_is_plain_and_the_parameters_add_up(inspect: Run) -> None:
    code, out, _ = inspect("stages", "resnet50", "--format", "json")
    content = json.loads(out)
    rows = content["tables"]["stages"]
    assert code == 0
    assert content["command"] == "stages"
    assert [row["index"] for row in rows] == [0, 1, 2, 3, 4, None]
    assert rows[0]["modules"] == "conv1 bn1 relu maxpool"
    assert rows[-1]["resolution"] is None
    assert content["metrics"]["stages"]["value"] == 5
    assert content["metrics"]["rest_params"]["value"] == 2_049_000  # fc: 2048 * 1000 + 1000
    assert sum(row["params"] for row in rows) == content["metrics"]["params"]["value"] == 25_557_032


def test_stage_options_are_a_map_in_their_order(inspect: Run) -> None:
    words = ["--stage", "conv1,bn1", "--stage", "layer1 layer2"]
    code, out, _ = inspect("stages", "resnet18", *words, "--format", "json")
    rows = json.loads(out)["tables"]["stages"]
    assert code == 0
    assert [row["modules"] for row in rows] == ["conv1 bn1", "layer1 layer2", ""]
    assert rows[1]["resolution"] == "28x28"


def test_a_wrong_glob_is_one_line_with_a_hint(inspect: Run) -> None:
    code, out, err = inspect("stages", "resnet18", "--stage", "layer9")
    assert (code, out) == (2, "")
    assert err.startswith("error: --stage 'layer9' matches no module or parameter\nhint: did you mean layer")


def test_an_empty_stage_is_refused(inspect: Run) -> None:
    code, _, err = inspect("stages", "resnet18", "--stage", " ")
    assert code == 2
    assert "--stage is empty" in err


def test_a_model_of_ones_own_needs_its_input(inspect: Run, net_file: Path) -> None:
    code, _, err = inspect("stages", f"{net_file}:build")
    assert code == 2
    assert "cannot find the stages of Net without running it" in err
    code, _, err = inspect("stages", f"{net_file}:build", "--input", "1x3x32x32")
    assert code == 2  # one convolution at one resolution
    assert "no stages found in Net" in err


def test_an_input_changes_the_resolutions(inspect: Run) -> None:
    code, out, _ = inspect("stages", "resnet18", "--input", "1x3x64x96", "--format", "json")
    rows = json.loads(out)["tables"]["stages"]
    assert code == 0
    assert [row["resolution"] for row in rows] == ["16x24", "16x24", "8x12", "4x6", "2x3", None]
