"""Speeds that others publish for language models are a fraction of our bound; all of them are in
benchmarks/llm_published.py."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.once
FOLDER = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("llm_published")


@pytest.mark.parametrize(
    "key",
    [
        "gpt-fast: Llama-2-7B on A100 SXM 80GB, 16 bits, batch 1, 5+200",
        "TensorRT-LLM: Llama-2-7B on A100 SXM 80GB, prompt of 2048",
        "lmdeploy: Llama-2-7B on A100 SXM 80GB, 16 bits, batch 16, 128+2048",
    ],
)
def test_what_was_measured_is_below_the_bound_and_not_far(key: str, script: Any) -> None:
    points = [*script.gpt_fast(), *script.tensorrt(), *script.lmdeploy()]
    (point,) = [point for point in points if point.key == key]
    row = script.judged(point)
    assert row is not None
    assert 0.3 < row["fraction"] <= 1


def test_a_rate_is_held_against_the_prompt_and_the_steps_after_it(script: Any) -> None:
    # Llama-2-7B: 6,607,077,376 weights are read in each step, 2 bytes each, and 524,288 bytes of each token
    # before: 5 and on the mean 99 more; the prompt of 5 reads the weights once. 2,039 GB/s.
    point = next(script.gpt_fast())
    seconds = (200 * 2 * 6_607_077_376 + 199 * 104 * 524_288) / 2039e9
    assert script.judged(point)["bound"] == pytest.approx(200 / seconds, rel=0.005)


def test_nothing_that_is_published_was_faster_than_the_bound() -> None:
    result = json.loads((FOLDER / "results" / "llm_published.json").read_text())
    assert result["above_the_bound"] == []
    assert len(result["rows"]) >= 40
    assert all(0.3 < row["fraction"] <= 1 for row in result["rows"].values())
