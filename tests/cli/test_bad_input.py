"""Bad input: one clear line, a hint, exit code 2, nothing lost and nothing half-written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
BASELINE = Path(__file__).parents[2] / "benchmarks" / "baselines" / "torchvision.json"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["profile", "resnt50"], "no torchvision model is called 'resnt50'", "did you mean resnet50"),
        (["profile", "timm:resnt50"], "no timm model is called 'resnt50'", "did you mean"),
        (["profile", "resnet50@V9"], "has no weights entry 'V9'", "IMAGENET1K_V2"),
        (["profile", "hf:nowhere"], "no configuration at nowhere", "config.json"),
        (["profile", "nowhere.py:Net"], "no file at nowhere.py", "path/to/file.py:NAME"),
        (["profile", "no.such.module:Net"], "no module is called 'no.such.module'", "package.module"),
        (["profile", "json:nothing"], "json has no 'nothing'", ""),
        (["profile", "resnet18", "--input", "1xthree"], "cannot read input '1xthree'", "1x3x224x224"),
        (["profile", "resnet18", "--input", "float99[1]"], "no dtype is called 'float99'", ""),
        (["profile", "resnet18", "--by", "colour"], "--by 'colour' is unknown", "module, type, op"),
        (["profile", "resnet18", "--phase", "x"], "--phase 'x' is unknown", "forward, train"),
        (["profile", "resnet18", "--format", "pdf"], "--format 'pdf' is unknown", "markdown"),
        (["profile", "resnet18", "--device", "x"], "no device 'x'", "meta"),
        (["profile", "resnet18", "--model-arg", "zero"], "cannot read --model-arg", "name=value"),
        (["profile", "resnet18", "--set", "SED", "1"], "no setting is called SED", "SEED"),
        (
            ["profile", "resnet18", "--set", "SEED", "x"],
            "'x' is not a whole number",
            "the default is --set SEED 0",
        ),
        (["profile", "resnet18", "--config", "none.yaml"], "cannot read none.yaml", "YAML"),
        (["profile", "--nonsense"], "--nonsense", "inspect profile --help"),
        (["profle"], "profle", "inspect --help"),
        (["models", "zzzz"], "no model matches 'zzzz'", ""),
        (["params", "none.pth"], "no file at none.pth", ".safetensors"),
        (["profile", ""], "names no model", "inspect models"),
        (
            ["freeze", "resnet18", "--at", "6"],
            "--at 6 is not from 0 to 5: the model has 5 stages",
            "inspect stages",
        ),
        (["freeze", "resnet18", "--at", "-1"], "--at -1 is not from 0 to 5", "inspect stages"),
        (
            ["freeze", "resnet18", "--at", "5", "--scheme", "mmdet"],
            "not from -1 to 4, as mmdet counts",
            "inspect",
        ),
        (["freeze", "resnet18", "--at", "two"], "valid integer", "inspect freeze --help"),
        (["freeze", "resnet18"], "nothing is frozen", "--at N"),
        (["freeze", "resnet18", "--at", "1", "--scheme", "mask"], "--scheme 'mask' is unknown", "maskrcnn"),
        (["freeze", "resnet18", "--at", "1", "--norm", "frozen"], "--norm 'frozen'", "freeze"),
        (
            ["freeze", "resnet18", "--pattern", "layer9.*"],
            "'layer9.*' matches no parameter",
            "did you mean layer",
        ),
        (["freeze", "resnet18", "--pattern", "layr1.*"], "'layr1.*' matches no", "did you mean layer1.*"),
        (["freeze", "resnet18", "--pattern", "xyz"], "'xyz' matches no parameter", "there are: conv1.weight"),
        (["freeze", "resnet18", "--pattern", "layer1.0.con1*"], "matches no", "layer1.0.conv1*"),
        (["freeze", "resnet18", "--at", "1", "--stage", "layer9"], "'layer9' matches no", "layer"),
        (
            ["freeze", "resnet18", "--at", "1", "--input", "1x3"],
            "expects 4 dimensions, got 2 in float32[1,3]",
            "--input",
        ),
        (["freeze", "resnet18", "--at", "1", "--weights", "none.pth"], "no file at none.pth", ""),
        (["freeze", "resnet18", "--at", "1", "--save", "x.txt"], "x.txt", ".safetensors"),
        (["freeze", "quantized_resnet18@DEFAULT", "--at", "1"], "does not train", "float"),
        (["freeze", "resnet18", "--set", "FREEZE.AT", "x"], "FREEZE.AT is 'x'", "--at 2"),
        (["report", "resnt50", "-o", "r.html"], "no torchvision model is called", "did you mean resnet50"),
        (["report", "resnet18", "--time", "tpu"], "cannot measure time on 'tpu'", "use one of: cpu, cuda"),
        (["report", "resnet18", "--time", "cpu", "--phase", "train"], "measures a forward", "inspect bench"),
        (["report", "resnet18", "--with", "none.json"], "no file none.json", "--format json"),
        (["report", "resnet18", "--stage", "layer9"], "'layer9' matches no", "layer"),
        (["report", "resnet18", "-o", "no/folder/r.html"], "cannot write", "existing folder"),
        (["stages", "resnet18", "--stage", "conv9"], "'conv9' matches no", "conv1"),
    ],
)
def test_one_line_and_a_hint(inspect, words: list[str], message: str, hint: str) -> None:
    code, out, err = inspect(*words)
    lines = err.strip().splitlines()
    assert code == 2
    assert out == ""
    assert len(lines) == 2, err
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert lines[1].startswith("hint: ")
    assert hint in lines[1]


def test_debug_shows_the_whole_error(inspect) -> None:
    _, _, err = inspect("profile", "resnet18", "--input", "1x4x8x8", "--debug")
    assert "Traceback" in err
    assert "Invalid channel dimensions" in err or "expected input" in err


def test_a_path_that_cannot_be_written_is_refused_before_the_work(inspect, tmp_path: Path) -> None:
    for target in (tmp_path / "no" / "folder.json", tmp_path):
        code, out, err = inspect("profile", "resnet18", "--format", "json", "-o", target)
        assert (code, out) == (2, "")
        assert "cannot write" in err
    assert list(tmp_path.iterdir()) == []


def test_a_failing_forward_still_writes_its_report_whole(inspect, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    code, _, _ = inspect("profile", "resnet18", "--input", "1x4x8x8", "-o", file)
    assert code == 2
    assert '"verdict": "fail"' in file.read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_a_missing_extra_names_the_install_command(inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "transformers", None)
    for spec, extra in (("timm:resnet18", "timm"), ("hf:x", "hf")):
        code, _, err = inspect("profile", spec)
        assert code == 2
        assert f"pip install 'torch-inspector[{extra}]'" in err


def _unread(*words: str) -> tuple[int, str]:
    """The exit code and the errors of a command whose reader is gone before it prints."""
    program = "from inspector.cli.main import entry; entry()"
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        errors = process.stderr.read().decode()
    return process.returncode, errors


def test_a_closed_pipe_is_not_an_error() -> None:
    assert _unread("diff", str(BASELINE), str(BASELINE)) == (0, "")


def test_a_closed_pipe_hides_no_regression() -> None:
    code, errors = _unread("diff", str(BASELINE), str(BASELINE), "--max", "params=1")
    assert code == 1
    assert "Error" not in errors


def test_the_module_and_the_script_are_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "inspector", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("inspector ")


@pytest.mark.parametrize("value", ["int64[2,16]", "float32[1,3,8,8]", "1x3x8x8", "bool[4]"])
def test_a_tensor_is_no_plain_value(inspect, value: str) -> None:
    code, out, err = inspect("profile", "resnet18", "--arg", f"mask={value}")
    assert (code, out) == (2, "")
    assert f"{value!r} a tensor" in err
    assert "use --input" in err
