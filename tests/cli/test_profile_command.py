"""`inspect profile` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from inspector.tracing.record import Trace


def test_resnet50_is_counted_and_says_how(inspect) -> None:
    code, out, err = inspect("profile", "resnet50")
    assert (code, err) == (0, "")
    assert "4.089 G  4,089,184,256" in out
    assert "25,557,032" in out
    assert "229 of 229 operators have a formula" in out
    assert "meta (shapes only" in out


def test_the_default_model_is_resnet50_and_settings_change_it(inspect, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("MODEL:\n  NAME: resnet18\nINPUT: [1x3x64x64]\n")
    for words, name, shape in [
        ((), "resnet50", "float32[1,3,224,224]"),
        (("--config", file), "resnet18", "float32[1,3,64,64]"),
        (("--config", file, "--set", "MODEL.NAME", "resnet34"), "resnet34", "float32[1,3,64,64]"),
        (("--config", file, "--input", "2x3x32x32"), "resnet18", "float32[2,3,32,32]"),
    ]:
        code, out, _ = inspect("profile", *words, "--format", "json")
        subject = json.loads(out)["subject"]
        assert (code, subject["name"], subject["inputs"]) == (0, name, [shape])


def test_training_json_has_both_directions(inspect) -> None:
    code, out, _ = inspect("profile", "resnet50", "--phase", "train", "--format", "json")
    metrics = json.loads(out)["metrics"]
    assert code == 0
    assert metrics["forward_macs"]["value"] == 4_089_184_256
    assert metrics["backward_macs"]["value"] == 2 * 4_089_184_256 - 64 * 112 * 112 * 147
    assert metrics["unknown_ops"]["value"] == 0


def test_the_manuals_example_of_a_users_model(inspect, net_file: Path) -> None:
    # conv: 16 * 64 * 64 outputs x 27; head: 16 x 10.
    spec = f"{net_file}:build"
    code, out, _ = inspect("profile", spec, "--input", "1x3x64x64", "--format", "json")
    metrics = json.loads(out)["metrics"]
    assert code == 0
    assert metrics["macs"]["value"] == 16 * 64 * 64 * 27 + 160
    assert metrics["params"]["value"] == 3 * 16 * 9 + 16 + 32 + 170
    code, out, _ = inspect(
        "profile", spec, "--input", "1x3x64x64", "--model-arg", "width=32", "--format", "json"
    )
    assert json.loads(out)["metrics"]["macs"]["value"] == 32 * 64 * 64 * 27 + 320


def test_views_by_type_and_operator(inspect) -> None:
    _, out, _ = inspect("profile", "vit_b_16", "--by", "op", "--top", "3")
    assert "aten.addmm" in out
    assert "(the largest 3 of" in out
    _, out, _ = inspect("profile", "resnet18", "--by", "type")
    assert "Conv2d" in out


def test_depth_limits_the_tree(inspect) -> None:
    _, out, _ = inspect("profile", "resnet18", "--depth", "1")
    assert "layer1" in out
    assert "BasicBlock" not in out


def test_strict_exits_1_on_an_unknown_operator(inspect, tmp_path: Path) -> None:
    file = tmp_path / "odd.py"
    file.write_text(
        "import torch\n\n\nclass Odd(torch.nn.Module):\n"
        "    def forward(self, x):\n        return torch.histogram(x, 4)[0]\n"
    )
    spec = f"{file}:Odd"
    assert inspect("profile", spec, "--input", "3x3")[0] == 0
    code, out, _ = inspect("profile", spec, "--input", "3x3", "--strict")
    assert code == 1
    assert "no formula for aten.histogram (1)" in out
    assert "at least" in out
    assert inspect("profile", "timm:convnextv2_atto", "--strict")[0] == 0


def test_a_forward_that_raises_prints_what_ran_and_exits_2(inspect, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1))\n")
    code, out, err = inspect("profile", f"{file}:net", "--input", "1x3x8x8")
    assert code == 2
    assert "FAIL  1: Conv2d raised RuntimeError" in out
    first, hint = err.strip().splitlines()
    assert first.startswith("error: module '1' (Conv2d) expects 3 channels, got 4 in float32")
    assert hint.startswith("hint: ")


def test_output_goes_to_a_file_in_the_format_of_its_suffix(inspect, tmp_path: Path) -> None:
    for name, start in [
        ("r.json", "{"),
        ("r.md", "### inspect profile"),
        ("r.csv", "module,"),
        ("r.html", "<!doctype"),
    ]:
        code, out, _ = inspect("profile", "resnet18", "-o", tmp_path / name)
        assert (code, out) == (0, "")
        assert (tmp_path / name).read_text().startswith(start)


def test_a_trace_can_be_saved(inspect, tmp_path: Path) -> None:
    code, _, _ = inspect("profile", "resnet18", "--save-trace", tmp_path / "trace.json")
    assert code == 0
    assert len(Trace.load(tmp_path / "trace.json").ops) > 50


def test_equal_runs_print_equal_bytes(inspect) -> None:
    assert inspect("profile", "resnet18", "--format", "json") == inspect(
        "profile", "resnet18", "--format", "json"
    )


@pytest.mark.parametrize("words", [("models", "vit_b"), ("models", "vit_b*"), ("models", "VIT_B_16")])
def test_models_are_listed_by_part_or_glob(inspect, words: tuple[str, ...]) -> None:
    code, out, _ = inspect(*words)
    assert code == 0
    assert "vit_b_16" in out
    assert "17.564" in out


def test_params_of_a_model_and_of_its_checkpoint_agree(inspect, tmp_path: Path) -> None:
    import torch
    from torchvision.models import resnet18

    torch.save(resnet18().state_dict(), tmp_path / "weights.pth")
    _, out, _ = inspect("params", "resnet18", "--format", "json")
    metrics = json.loads(out)["metrics"]
    _, out, _ = inspect("params", tmp_path / "weights.pth", "--format", "json")
    elements = json.loads(out)["metrics"]["elements"]["value"]
    assert elements == metrics["params"]["value"] + metrics["buffers"]["value"] == 11_689_512 + 9_620
