"""Exported programs, TorchScript, lazy modules, models on meta: the model itself."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector import InspectError, profile
from tests.conftest import Run

X = torch.randn(1, 3, 16, 16)
PARAMS = 3 * 8 * 9 + 8 + 2 * 8 + 8 * 5 + 5
MACS = 14 * 14 * 8 * 27 + 8 * 5
"""Of the network below: a convolution of 3 x 3 without padding, a batch norm, a linear layer of 8 to 5."""


def network() -> nn.Module:
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head).eval()


def counts(report: inspector.Report) -> tuple[Any, Any]:
    return report.metrics["macs"].value, report.metrics["params"].value


@pytest.fixture(scope="module")
def program() -> Any:
    return torch.export.export(network(), (X,))


class TestPrograms:
    def test_as_a_module_and_as_they_are(self, program: Any) -> None:
        module = program.module()
        attributes = dict(module.__dict__)
        for model, inputs in ((module, X), (module, "1x3x16x16"), (program, X), (program, None)):
            assert counts(profile(model, inputs)) == (MACS, PARAMS)
        assert module.__dict__ == attributes

    def test_a_training_step(self, program: Any) -> None:
        report = profile(program.module(), X, phase="train")
        # the backward: weights of both layers, and the input of the linear one
        assert counts(report) == (2 * MACS + 8 * 5, PARAMS)
        assert any("in which it was exported" in finding.message for finding in report.findings)

    def test_a_file_knows_its_inputs(self, program: Any, tmp_path: Path) -> None:
        file = tmp_path / "net.pt2"
        torch.export.save(program, file)
        report = profile(str(file))
        assert counts(report) == (MACS, PARAMS)
        assert report.subject["inputs"] == ["float32[1,3,16,16]"]
        assert inspector.params(str(file)).metrics["params"].value == PARAMS

    def test_constants_of_the_graph_that_name_a_device(self) -> None:
        class Constants(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return (x + torch.arange(4)) @ torch.ones(4, 4)

        program = torch.export.export(Constants(), (torch.randn(2, 4),))
        assert profile(program).metrics["macs"].value == 2 * 4 * 4

    @pytest.mark.parametrize("content", [b"", b"PK nothing"])
    def test_a_damaged_file_is_one_line(self, content: bytes, tmp_path: Path, inspect: Run) -> None:
        file = tmp_path / "net.pt2"
        file.write_bytes(content)
        code, out, err = inspect("profile", file)
        assert (code, out) == (2, "")
        first, hint = err.strip().splitlines()
        assert first.startswith(f"error: {file} cannot be loaded")
        assert hint == "hint: export it again with this version of torch"


class TestFiles:
    @pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, X)])
    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".ts"])
    def test_torchscript(self, make: Any, suffix: str, tmp_path: Path) -> None:
        file = tmp_path / f"net{suffix}"
        torch.jit.save(make(network()), file)
        assert counts(profile(str(file), "1x3x16x16")) == (MACS, PARAMS)

    def test_others_get_a_word_and_a_hint(self, tmp_path: Path) -> None:
        weights, graph = tmp_path / "net.pth", tmp_path / "net.onnx"
        torch.save(network().state_dict(), weights)
        graph.write_bytes(b"\x08\x07\x12\x07pytorch")
        with pytest.raises(InspectError) as error:
            profile(str(weights), X)
        assert "is a checkpoint" in error.value.message
        assert error.value.hint == f"list it with: inspect params {weights}"
        with pytest.raises(InspectError) as error:
            profile(str(graph), X)
        assert "is an ONNX graph" in error.value.message
        assert "PyTorch model that it was exported from" in str(error.value.hint)
        with pytest.raises(InspectError, match="no file at"):
            profile(str(tmp_path / "none.pt2"))


LAZY = {
    "linear": (lambda: nn.LazyLinear(8), "3x4", 3 * 4 * 8, 4 * 8 + 8),
    "conv": (lambda: nn.LazyConv2d(4, 3), "2x3x8x8", 2 * 36 * 4 * 27, 4 * 27 + 4),
    "batch norm 1d": (nn.LazyBatchNorm1d, "3x4", 0, 8),
    "batch norm 2d": (nn.LazyBatchNorm2d, "2x3x8x8", 0, 6),
    "batch norm 3d": (nn.LazyBatchNorm3d, "2x3x4x8x8", 0, 6),
    "instance norm": (lambda: nn.LazyInstanceNorm2d(affine=True), "2x3x8x8", 0, 6),
    "transposed": (lambda: nn.LazyConvTranspose2d(4, 3), "2x3x8x8", 2 * 64 * 3 * 36, 3 * 36 + 4),
}  # fmt: skip


@pytest.mark.parametrize("name", LAZY)
@pytest.mark.parametrize("phase", ["forward", "train"])
def test_lazy_modules_learn_their_shapes_in_a_copy(name: str, phase: str) -> None:
    make, inputs, macs, params = LAZY[name]
    model = make()
    report = profile(model, inputs, phase=phase)
    assert counts(report) == (macs if phase == "forward" else 2 * macs, params)
    assert any(map(nn.parameter.is_lazy, model.parameters()))


class Frozen(OrderedDict[str, int]):
    """A configuration that refuses every change, as that of diffusers does."""

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise TypeError("it cannot be changed")

    __setitem__ = __delitem__ = clear = update = pop = _refuse  # type: ignore[assignment]


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.config = _frozen(width=4)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        return self.linear(x)


def _frozen(**values: int) -> Frozen:
    made = Frozen()
    for key, value in values.items():
        OrderedDict.__setitem__(made, key, value)
    return made


def test_attributes_that_refuse_to_be_written_are_left_alone() -> None:
    model = Configured()
    assert counts(profile(model, torch.randn(3, 4))) == (48, 20)
    assert (dict(model.config), model.seen) == ({"width": 4}, [])


class Choosing(nn.Module):
    """What it computes depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("steps", torch.ones(4, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if bool(y.sum() > -1e9) else self.linear(y)


def test_a_model_on_meta_that_needs_values_gets_some_and_it_is_said() -> None:
    with torch.device("meta"):
        model = Choosing()
    report = profile(model, "3x4")
    assert counts(report) == (48, 20)
    assert any("random weights drawn from the seed" in finding.message for finding in report.findings)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert not any(
        "random weights drawn" in finding.message for finding in profile(Choosing(), "3x4").findings
    )
