"""A trace is a versioned file that reads back equal, or says what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import inspector
from inspector.tracing.record import ITEM_BYTES, SCHEMA, TensorSpec, Trace


@pytest.mark.parametrize("phase", ["forward", "train"])
def test_a_saved_trace_reads_back_equal(tmp_path: Path, phase: str) -> None:
    trace = inspector.trace("mobilenet_v3_small", "1x3x64x64", phase=phase)
    file = trace.save(tmp_path / "trace.json")
    assert Trace.load(file) == trace
    assert inspector.profile(Trace.load(file)).to_json() == inspector.profile(trace).to_json()
    assert json.loads(file.read_text())["schema"] == SCHEMA == "inspector.trace/1"


def test_each_call_of_a_module_has_its_operators() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = torch.nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.act(self.act(x) * 2)

    trace = inspector.trace(torch.nn.Sequential(Twice(), torch.nn.Identity()), "3")
    # relu, mul, relu; Identity runs nothing, after all of them
    assert trace.runs == (
        ("", -1, 0, 3),
        ("0", 0, 0, 3),
        ("0.act", 1, 0, 1),
        ("0.act", 1, 2, 3),
        ("1", 0, 3, 3),
    )
    assert [module.calls for module in trace.modules] == [1, 1, 2, 1]


def test_a_file_without_calls_is_still_read(tmp_path: Path) -> None:
    trace = inspector.trace(torch.nn.ReLU(), "3")
    content = json.loads(trace.to_json())
    del content["runs"]
    assert Trace.from_json(json.dumps(content)) == replace(trace, runs=())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a trace file"),
        ("[]", "not a trace file"),
        ('{"schema": "inspector.report/1"}', "this version reads"),
        ('{"schema": "inspector.trace/2"}', "this version reads"),
        ('{"schema": "inspector.trace/1", "ops": {}}', "damaged"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "trace.json"
    file.write_text(text)
    with pytest.raises(inspector.InspectError, match=message):
        Trace.load(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(inspector.InspectError, match="cannot read"):
        Trace.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("dtype", "nbytes"), [("float32", 24), ("bfloat16", 12), ("complex128", 96), ("bool", 6)]
)
def test_bytes_follow_the_dtype(dtype: str, nbytes: int) -> None:
    assert TensorSpec((2, 3), dtype).nbytes == nbytes
    assert TensorSpec((), dtype).numel == 1
    assert TensorSpec((0, 3), dtype).nbytes == 0


def test_every_dtype_of_torch_has_its_size() -> None:
    dtypes = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert {str(d).removeprefix("torch."): d.itemsize for d in dtypes}.items() <= ITEM_BYTES.items()
