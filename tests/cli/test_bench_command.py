"""`inspect bench` and `inspect env` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import Run

WORDS = ("--input", "1x3x8x8", "--seconds", "0.1", "--device", "cpu")


def test_json_and_table(inspect: Run, net_file: Path) -> None:
    code, out, _ = inspect(
        "bench", f"{net_file}:build", *WORDS, "--mode", "train", "--batch", "2,4", "--format", "json"
    )
    content = json.loads(out)
    assert code == 0
    assert content["command"] == "bench"
    assert [(row["batch"], row["precision"]) for row in content["tables"]["rows"]] == [
        (2, "fp32"), (2, "amp-bf16"), (4, "fp32"), (4, "amp-bf16"),
    ]  # fmt: skip
    code, out, _ = inspect("bench", f"{net_file}:build", *WORDS, "--mode", "infer", "--batch", "2")
    assert code == 0
    assert "infer, batch 2" in out
    assert "report only" in out


def test_html_draws_both_charts(inspect: Run, net_file: Path, tmp_path: Path) -> None:
    page = tmp_path / "bench.html"
    code, _, _ = inspect("bench", f"{net_file}:build", *WORDS, "--mode", "infer", "--batch", "2", "-o", page)
    text = page.read_text()
    assert code == 0
    assert text.count("<figure") == 2
    assert "throughput (samples/s, 95% interval)" in text
    assert "speed-up against drift from float64" in text
    assert 'src="http' not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_require_gpu_without_one(inspect: Run) -> None:
    code, out, err = inspect("bench", "--require-gpu")
    assert (code, out) == (2, "")
    assert "no CUDA device" in err
    assert "hint: " in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "a"], "cannot read --batch"),
        (["--batch", ""], "--batch is empty"),
        (["--batch", "0"], "a batch of 0"),
        (["--precision", "fp12"], "--precision 'fp12' is unknown"),
        (["--mode", "both"], "--mode 'both' is unknown"),
        (["--device", "tpu"], "cannot measure on"),
        (["--seconds", "-1"], "-1 seconds"),
        (["--cuda-graph"], "CUDA graphs"),
        (["--output", "/nowhere/x.json"], "cannot write"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(
    inspect: Run, net_file: Path, words: list[str], message: str
) -> None:
    code, out, err = inspect("bench", f"{net_file}:build", *WORDS, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 2


def test_ctrl_c_prints_what_there_is(inspect: Run, net_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.benchmarking.run import Bench

    whole = Bench._group

    def group(self: Bench, precisions: object, mode: str, batch: int, drifts: object) -> None:
        if batch == 4:
            raise KeyboardInterrupt
        whole(self, precisions, mode, batch, drifts)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "_group", group)
    code, out, err = inspect("bench", f"{net_file}:build", *WORDS, "--mode", "infer", "--batch", "2,4")
    assert code == 130
    assert "infer, batch 2" in out
    assert "interrupted" in out
    assert "interrupted" in err


def test_env_says_what_is_here_and_what_is_missing(inspect: Run) -> None:
    code, out, _ = inspect("env", "--format", "json")
    content = json.loads(out)
    assert code == 0
    versions = {row["package"]: row["version"] for row in content["tables"]["versions"]}
    assert torch.__version__.startswith(versions["torch"])
    threads = {row["setting"]: row["value"] for row in content["tables"]["threads"]}
    assert threads["torch.get_num_threads()"] == str(torch.get_num_threads())
    assert content["tables"]["devices"][0]["device"] == "cpu"
    assert any("matmul" in row["flag"] for row in content["tables"]["flags"])


def test_env_names_a_missing_package(inspect: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.benchmarking import machine as env

    monkeypatch.setattr(env, "installed", lambda name: "" if name == "timm" else "1.0")
    code, out, _ = inspect("env")
    assert code == 0
    assert "pip install 'torch-inspector[timm]'" in out
