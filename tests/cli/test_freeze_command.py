"""`inspect freeze` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.once


def test_two_stages_of_resnet50_are_proven_frozen(inspect) -> None:
    code, out, err = inspect("freeze", "--at", "2", "--no-ddp")
    assert code == 0, err
    assert "225,344" in out  # stem 9,536 + layer1 215,808
    assert "33 frozen parameters (225,344 elements) are byte-identical" in out
    assert "detectron2   2" in out
    assert "mmdet        1" in out
    assert "torchvision  3" in out


def test_a_ddp_step_is_part_of_it(inspect) -> None:
    code, out, _ = inspect("freeze", "mobilenet_v3_small", "--at", "3", "--format", "json")
    assert code == 0
    report = json.loads(out)
    status = {finding["check"]: finding["status"] for finding in report["findings"]}
    assert status["ddp"] == "pass"
    assert report["verdict"] == "pass"
    assert report["command"] == "freeze"
    assert set(report["tables"]) == {"stages", "schemes", "frozen"}


def test_a_planted_fault_exits_1_with_its_finding(inspect, tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "import torchvision\n"
        "def build():\n"
        "    model = torchvision.models.resnet18()\n"
        "    model.layer1.requires_grad_(False)\n"
        "    return model\n"
    )
    code, out, _ = inspect("freeze", f"{file}:build", "--input", "2x3x32x32", "--no-ddp")
    assert code == 1
    assert "FAIL  layer1.0.bn1.running_mean: moved" in out
    assert "pass --norm freeze" in out


def test_a_user_s_file_takes_the_ddp_step_too(inspect, net_file: Path) -> None:
    words = ("freeze", f"{net_file}:build", "--pattern", "conv.*", "--input", "2x3x32x32")
    code, out, err = inspect(*words)
    assert code == 0, err
    assert "two processes train under DDP" in out


def test_every_scheme_names_the_same_stages(inspect) -> None:
    for scheme, at in (("maskrcnn", 2), ("detectron2", 2), ("mmdet", 1), ("torchvision", 3)):
        words = ("freeze", "resnet18", "--scheme", scheme, "--at", at, "--no-verify", "--format", "json")
        code, out, _ = inspect(*words)
        assert code == 0
        assert json.loads(out)["metrics"]["frozen_params"]["value"] == 157_504


def test_without_verification_it_says_so(inspect) -> None:
    code, out, _ = inspect("freeze", "resnet18", "--at", "1", "--no-verify")
    assert code == 0
    assert "not verified" in out


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_saving_writes_the_state_and_a_manifest(inspect, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"frozen{suffix}"
    code, _, err = inspect("freeze", "resnet18", "--at", "2", "--no-verify", "--save", target)
    assert code == 0, err
    manifest = json.loads(Path(f"{target}.json").read_text())
    assert "layer1.1.bn2.bias" in manifest["frozen"]
    assert not any(name.startswith("layer2") for name in manifest["frozen"])
    code, _, err = inspect("freeze", "resnet18", "--at", "2", "--no-verify", "--weights", target)
    assert code == 0, err
    if suffix == ".pth":
        assert "fc.weight" in torch.load(target, weights_only=True)


def test_settings_of_a_file_are_used_and_options_win(inspect, tmp_path: Path) -> None:
    file = tmp_path / "freeze.yaml"
    file.write_text("MODEL: {NAME: resnet18}\nFREEZE: {AT: 1, NORM: eval, STAGES: ['conv1 bn1', 'layer1']}\n")
    code, out, err = inspect("freeze", "--config", file, "--no-verify")
    assert code == 0, err
    assert "1 of 2 stages" in out
    assert "weight and bias train" in out
    code, out, _ = inspect("freeze", "--config", file, "--no-verify", "--at", "2", "--norm", "freeze")
    assert "2 of 2 stages" in out
    assert "also after model.train()" in out


def test_a_file_that_imports_its_neighbour_takes_the_ddp_step_too(inspect, tmp_path: Path) -> None:
    """Its folder is on the path only while it is imported; the two processes find the class there, too."""
    (tmp_path / "neighbour_of_it.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Sequential):\n    pass\n\n\n"
        "def make():\n    return Net(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))\n"
    )
    (tmp_path / "frozen_net.py").write_text(
        "from neighbour_of_it import make\n\n\ndef build():\n    net = make()\n"
        "    net[0].requires_grad_(False)\n    return net\n"
    )
    code, out, _ = inspect("freeze", f"{tmp_path}/frozen_net.py:build", "--input", "2x4", "--steps", "1")
    assert "no DDP step" not in out
    assert "two processes train under DDP" in out
    assert code == 0
