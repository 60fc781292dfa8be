"""The control flow of benchmarks/gpu.py, on a fake GPU with small models."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inspector.footprint.calibration import Calibration
from tests.fake_gpu import A100, H100, Card, a_gpu

pytestmark = pytest.mark.once
FOLDER = Path(__file__).parent.parent / "benchmarks"
NET = f"{Path(__file__).parent / 'small_net.py'}:build"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("gpu")


def here(script: Any, left_out: tuple[str, ...]) -> Any:
    def alone(case: str, name: str, seconds: float) -> Any:
        return {"failure": "left out"} if case in left_out else script.CASES[case](name)

    return alone


@pytest.mark.parametrize("part", [1, 2, 3, 4])
def test_a_part_runs_every_case_and_judges_it(part: int, script: Any, tmp_path: Path) -> None:
    quick = {"seconds": 0.02, "batches": [2]}
    bench, memory = script.inspector.bench, script.inspector.memory
    script.inspector.bench = lambda name, **more: bench(name, **{**more, **quick})
    script.inspector.memory = lambda name, **more: memory(name, **{**more, "batch": 2})
    try:
        with a_gpu():
            content = script.run(part, [NET], tmp_path, here(script, ("tests", "ddp", "env", "compiled")))
    finally:
        script.inspector.bench, script.inspector.memory = bench, memory
    assert json.loads((tmp_path / f"gpu_{part}.json").read_text())["claims"] == content["claims"]
    expected = {f"{case} {NET if names != ('',) else ''}".strip() for case, names in script.PARTS[part]}
    assert set(content["cases"]) == expected
    failures = {key: case["failure"] for key, case in content["cases"].items() if "failure" in case}
    assert set(failures.values()) <= {"left out"}
    assert all(claim["verdict"] in ("holds", "does not hold", "not measured") for claim in content["claims"])
    absent = [claim for claim in content["claims"] if claim["text"].endswith("rows absent")]
    assert all(claim["verdict"] == "holds" for claim in absent)
    assert absent or part in (2, 4)


def test_memory_is_calibrated_with_what_part_2_writes(script: Any, tmp_path: Path) -> None:
    left_out = ("workspaces", "memory", "memory_without_cudnn")
    with a_gpu():
        content = script.run(2, [NET], tmp_path, here(script, left_out))
    rows = content["cases"][f"convolutions {NET}"]["rows"]
    assert {row["inputs"][0][1] for row in rows} == {"float32"}  # tensors of the fake are not autocast
    assert {row["name"] for row in rows} == {"aten.convolution", "aten.convolution_backward"}
    held = Calibration.read(tmp_path / "gpu_2.json")
    assert (held.card, held.major, held.elsewhere()) == (H100.name, 9, "")
    report = script.inspector.memory(
        NET, batch=64, phase="train", calibrate=tmp_path / "gpu_2.json", gpu="h100"
    )
    assert set(report.to_frame("workspaces")["source"]) == {"calibrated"}


def test_what_is_not_reached_says_so(script: Any, tmp_path: Path) -> None:
    with a_gpu():
        content = script.run(2, None, tmp_path, seconds=0.0)
    assert {case["failure"] for case in content["cases"].values()} == {"not reached"}
    assert {claim["verdict"] for claim in content["claims"]} == {"does not hold"}


@pytest.mark.parametrize(("card", "claims"), [(H100, 1), (A100, 0)])
def test_an_fp8_row_is_claimed_where_the_card_has_one(script: Any, card: Card, claims: int) -> None:
    row = {"precision": "fp8", "status": "measured", "drift": 0.05, "fraction_of_peak": None}
    with a_gpu(card):
        judged = list(script._judge_compiled("net", {"rows": [row], "failed": []}))
    drifts = [claim for claim in judged if "FP8" in claim.text]
    assert [claim.verdict for claim in drifts] == ["holds"] * claims


@pytest.mark.parametrize(
    ("value", "least", "most", "verdict"),
    [
        (2.0, 2.0, None, "holds"),
        (1.99, 2.0, None, "does not hold"),
        (0.03, -0.03, 0.03, "holds"),
        (0.031, -0.03, 0.03, "does not hold"),
        (None, 0.0, 1.0, "not measured"),
    ],
)
def test_verdicts(script: Any, value: Any, least: Any, most: Any, verdict: str) -> None:
    assert script.Claim("", value, least, most).verdict == verdict


def test_without_a_gpu_it_is_one_line() -> None:
    run = subprocess.run(
        [sys.executable, str(FOLDER / "gpu.py"), "1"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    assert run.stderr.startswith("error: no CUDA device here\nhint: ")
