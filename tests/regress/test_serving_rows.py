"""Steps of a language model's service as rows of a regression table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import inspector
from inspector.regress.sweep.entries import entries

pytest.importorskip("transformers", minversion="5.0")
pytestmark = pytest.mark.once

SMALL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 96, "hidden_size": 32,
    "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    return f"hf:{tmp_path}"


def listed(tmp_path: Path, *lines: dict[str, Any]) -> str:
    file = tmp_path / "rows.yaml"
    file.write_text(json.dumps(list(lines)))  # JSON is YAML
    return str(file)


def test_a_table_counts_each_step_and_a_diff_counts_it_again(spec: str, tmp_path: Path) -> None:
    steps = ({"phase": "prefill", "context": 8}, {"phase": "decode", "context": 8, "batch": 2})
    report = inspector.table([listed(tmp_path, *({"model": spec, **step} for step in steps))])
    rows = report.tables["models"]
    assert list(rows["error"]) == ["", ""]
    # Keys and values of 2 heads of 8, 2 layers, float32, 8 tokens; the decode has 2 sequences.
    assert list(rows["cache_bytes"]) == [2 * 2 * 8 * 2 * 4 * 8, 2 * 2 * 8 * 2 * 4 * 8 * 2]
    again = inspector.diff(report.save(tmp_path / "base.json"))
    assert again.verdict == "pass"
    assert again.metrics["regressed"].value == again.metrics["incomparable"].value == 0


def test_two_contexts_are_not_compared(spec: str, tmp_path: Path) -> None:
    files = [
        inspector.profile(spec, phase="decode", context=context).save(tmp_path / f"{context}.json")
        for context in (8, 16)
    ]
    assert inspector.diff(*files).metrics["incomparable"].value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"context": 8}, "belongs to a prefill or a decode"),
        ({"phase": "decode", "batch": "x"}, "is no number"),
        ({"phase": "decode", "context": True}, "is no number"),
        ({"phase": "serve"}, "no phase is called"),
    ],
)
def test_what_is_no_step_is_refused(line: dict[str, Any], words: str, spec: str, tmp_path: Path) -> None:
    with pytest.raises(inspector.InspectError, match=words):
        entries([listed(tmp_path, {"model": spec, **line})])


def test_the_time_of_a_step_is_not_measured(spec: str, tmp_path: Path) -> None:
    rows = listed(tmp_path, {"model": spec, "phase": "decode", "context": 8})
    report = inspector.table([rows], measure=["latency"], device="cpu", rounds=1)
    assert "latency" not in report.tables["models"]
    assert any("the time of a decode is not measured" in finding.message for finding in report.findings)
