"""`inspect memory`: its formats, its exit codes, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Run


def test_a_training_step_is_predicted(inspect: Run, net_file: Path) -> None:
    code, out, err = inspect(
        "memory", f"{net_file}:Net", "--input", "1x3x32x32", "--batch", 8, "--phase", "train",
        "--optimizer", "adamw",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for said in ("training step, adamw", "float32[8,3,32,32]", "peak allocated", "optimizer state", "█"):
        assert said in out


def test_what_does_not_fit_is_exit_code_1_after_the_report(inspect: Run, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    code, _, _ = inspect("memory", "resnet18", "--batch", 2, "--fits", "800MiB", "-o", file)
    assert code == 1
    report = json.loads(file.read_text())
    finding = next(f for f in report["findings"] if f["check"] == "fits")
    assert (report["verdict"], finding["status"]) == ("fail", "fail")
    assert finding["evidence"]["parameters"] > 44_000_000
    assert {"composition", "modules", "operators", "timeline"} <= report["tables"].keys()


def test_html_has_the_timeline_as_a_chart(inspect: Run, net_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "memory.html"
    code, _, _ = inspect("memory", f"{net_file}:Net", "--input", "2x3x32x32", "--phase", "train", "-o", file)
    assert code == 0
    page = file.read_text()
    assert "What lives when" in page
    assert "activations" in page


def test_every_option_reaches_the_prediction(inspect: Run, net_file: Path) -> None:
    code, out, _ = inspect(
        "memory", f"{net_file}:Net", "--input", "1x3x32x32", "--batch", 4, "--phase", "train", "--optimizer",
        "adam", "--dtype", "float16", "--master-weights", "--checkpoint-activations", "conv", "--attention",
        "math", "--gpu", "h100", "--depth", 2,
    )  # fmt: skip
    assert code == 0
    for said in (
        "float16[4,3,32,32]",
        "adam, master weights",
        "checkpointed",
        "math",
        "the peak by module (depth 2)",
    ):
        assert said in out


def test_the_processes_that_share_a_model_are_simulated(inspect: Run, net_file: Path) -> None:
    words = "memory", f"{net_file}:Net", "--input", "4x3x32x32", "--phase", "train", "--world-size", 4
    code, out, _ = inspect(*words, "--shard", "fsdp")
    assert code == 0
    for said in (
        "the peak of each of 4 processes, fsdp (simulated)",
        "gathered parameters",
        "peak of each process",
    ):
        assert said in out
    code, _, err = inspect(*words, "--master-weights")
    assert (code, "keeps no master weights" in err) == (2, True)
    assert "--world-size" in err


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--fits", "24"], "cannot read the size '24'", "24GiB"),
        (["--optimizer", "adam"], "training only", "--phase train"),
        (["--phase", "train", "--optimizer", "adamv"], "--optimizer 'adamv' is unknown", "adam"),
        (["--checkpoint-activations", "x"], "only training keeps activations", "--phase train"),
        (["--dtype", "fp8"], "--dtype 'fp8' is unknown", "bfloat16"),
        (["--batch", "0"], "no sample", "--batch 64"),
        (["--input", "3x3x64x64", "--batch", "7"], "has 3 samples", "first dimension of 1"),
        (["--max-batch", "1GiB", "--batch", "2"], "--max-batch searches", "leave out"),
        (["--gpu", "voodoo"], "no device is called 'voodoo'", "H100"),
        (["--shard", "zero", "--world-size", "2"], "--shard 'zero' is unknown", "fsdp"),
        (["--phase", "train", "--optimizer", "adamw8bit", "--measure"], "no such optimizer", "--measure"),
    ],
)
def test_a_bad_question_is_one_line_and_exit_code_2(
    inspect: Run, words: list[str], message: str, hint: str
) -> None:
    code, out, err = inspect("memory", "resnet18", *words)
    assert (code, out) == (2, "")
    first, second = err.strip().splitlines()[-2:]
    assert first.startswith("error: ")
    assert message in first
    assert second.startswith("hint: ")
    assert hint in second


def test_a_quantized_model_has_no_cuda_kernels(inspect: Run) -> None:
    code, _, err = inspect("memory", "quantized_resnet18", "--model-arg", "quantize=true")
    assert code == 2
    assert "quantized" in err
