"""`inspect init` and inspector.initialization.report: what is changed, what is reported, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inspector.core.errors import InspectError
from inspector.initialization.report import init

Run = Callable[..., tuple[int, str, str]]


def bytes_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_live_model_is_initialised_and_only_what_is_reported_changes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
    before = bytes_of(model)
    report = init(model, "kaiming_uniform", propagation=False, seed=3)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == set(report.to_frame()["tensor"]) == {"0.weight", "2.weight"}
    assert report.verdict == "pass"
    torch.manual_seed(3)
    assert torch.equal(model[0].weight, nn.init.kaiming_uniform_(torch.empty(8, 3, 3, 3), a=1))


def test_expect_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4))
    before, flag = bytes_of(model), model.training
    for scheme in ("auto", "kaiming_uniform"):
        init(model, expect=scheme, inputs="1x3x8x8")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training == flag


def test_the_checks_of_the_seed_are_in_the_report() -> None:
    report = init(nn.Linear(64, 64), "xavier_normal", propagation=False)
    passed = {f.check for f in report.findings if f.status == "pass"}
    assert {"law", "written_twice", "reproducible", "seed_ignored"} <= passed
    assert {m.kind for m in report.metrics.values()} == {"exact"}


def test_a_lazy_model_needs_its_input(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\ndef build():\n    return nn.Sequential(nn.LazyLinear(8))\n")
    with pytest.raises(InspectError, match="waits for its first input"):
        init(f"{file}:build", propagation=False)
    report = init(f"{file}:build", inputs="2x16", propagation=False)
    assert report.to_frame()["fan_in"].tolist() == [16]


def test_a_saved_file_is_verified_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, file = nn.Sequential(nn.Linear(200, 50), nn.Linear(50, 30)), tmp_path / "net.safetensors"
    init(model, "c2_xavier_fill", save=file, propagation=False)
    manifest = json.loads((tmp_path / "net.safetensors.json").read_text())
    assert (manifest["scheme"], manifest["seed"], manifest["bias"]) == ("c2_xavier_fill", 0, "zeros")
    assert init(file, expect="c2_xavier_fill").verdict == "pass"
    assert init(file, expect="c2_msra_fill").verdict == "fail"
    assert init(file, expect="auto").verdict == "pass"
    fresh = nn.Sequential(nn.Linear(200, 50), nn.Linear(50, 30))
    assert init(fresh, expect="c2_xavier_fill", weights=file, propagation=False).verdict == "pass"


def test_commands_exit_0_1_and_2(inspect: Run, tmp_path: Path) -> None:
    code, out, _ = inspect("init", "resnet18", "--scheme", "c2_msra_fill", "--no-propagation")
    assert code == 0
    assert "c2_msra_fill" in out
    code, out, _ = inspect(
        "init", "resnet18", "--expect", "xavier_uniform", "--no-propagation", "--format", "json"
    )
    report = json.loads(out)
    assert (code, report["verdict"], report["command"]) == (1, "fail", "init")
    assert report["metrics"]["differs"]["value"] == 21
    code, _, err = inspect("init", "resnet18", "--scheme", "kaiming_uniforn")
    assert code == 2
    assert "did you mean kaiming_uniform" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--scheme", "normal", "--a", "1"], "normal does not use --a"),
        (["--scheme", "zeros", "--std", "1"], "zeros does not use --std"),
        (["--expect", "auto", "--mode", "fan_out"], "does not use --mode"),
        (["--expect", "normal", "--scheme", "normal"], "give one of them"),
        (["--expect", "normal", "--save", "x.pth"], "--expect changes nothing"),
        (["--layers", "nothing"], "matches no layer"),
        (["--layers", "bn*"], "one dimension"),
        (["--scheme", "normal", "--std", "-1"], "must be positive"),
        (["--scheme", "kaiming_normal", "--mode", "fan"], "--mode 'fan' is unknown"),
        (["--bias", "some"], "neither a rule nor a number"),
        (["--save", "x.txt"], "cannot save weights"),
    ],
)
def test_options_that_make_no_sense_are_refused(inspect: Run, words: list[str], says: str) -> None:
    code, out, err = inspect("init", "resnet18", *words)
    assert (code, out) == (2, "")
    assert says in err


@pytest.mark.parametrize("format_", ["table", "markdown", "json", "csv", "html"])
def test_every_format_renders(inspect: Run, format_: str, net_file: Path) -> None:
    code, out, _ = inspect(
        "init", f"{net_file}:build", "--input", "2x3x16x16", "--format", format_, "--bias", "zeros"
    )
    assert code == 0
    assert "uniform" in out


def test_settings_of_a_file_are_used_and_options_win(inspect, tmp_path: Path) -> None:
    file = tmp_path / "init.yaml"
    file.write_text(
        "MODEL: {NAME: squeezenet1_1}\n"
        "INIT: {SCHEME: kaiming_uniform, A: 0, LAYERS: [squeeze], BIAS: zeros}\n"
    )
    words = ("init", "--config", file, "--no-propagation")
    code, out, err = inspect(*words)
    assert code == 0, err
    assert "kaiming_uniform a=0 mode=fan_in, bias zeros" in out
    assert "8 of 26" in out  # eight fire modules squeeze
    code, out, _ = inspect(*words, "--scheme", "xavier_uniform", "--layers", "*")
    assert code == 0
    assert "xavier_uniform" in out
    assert "26 of 26" in out


@pytest.mark.parametrize(("model", "options"), [("resnet18", {"layers": [0]}), (None, {})])
def test_what_cannot_be_selected_is_one_line(model: str | None, options: dict[str, Any]) -> None:
    import torch

    import inspector

    target = model or torch.jit.script(torch.nn.Linear(2, 2))
    with pytest.raises(inspector.InspectError, match=r"list of names|TorchScript"):
        inspector.init(target, "kaiming_uniform", **options)
