"""A call that does not fit: what the module wanted and got, and the inputs that would fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import inspector
from inspector.tracing.capture import ForwardError
from tests.conftest import Run

CASES: dict[str, tuple[Any, Any, str, str]] = {
    "channels": (lambda: nn.Conv2d(3, 4, 3), "1x1x8x8", "3 channels, got 1", "float32[1,3,8,8]"),
    "unbatched": (lambda: nn.Conv2d(3, 4, 3), "1x8x8", "3 channels, got 1", "float32[3,8,8]"),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3), "1x2x4x4", "3 channels, got 2", "float32[1,3,4,4]"),
    "batch norm": (lambda: nn.BatchNorm2d(3), "2x4x8x8", "3 channels, got 4", "float32[2,3,8,8]"),
    "group norm": (lambda: nn.GroupNorm(2, 4), "1x3x4x4", "4 channels, got 3", "float32[1,4,4,4]"),
    "layer norm": (lambda: nn.LayerNorm(8), "2x4", "8 features, got 4", "float32[2,8]"),
    "linear": (lambda: nn.Linear(8, 4), "2x7", "8 features, got 7", "float32[2,8]"),
    "gru": (lambda: nn.GRU(8, 4), "3x2x7", "8 features, got 7", "float32[3,2,8]"),
    "tokens": (lambda: nn.Embedding(10, 8), "1x128", "whole numbers (int64), got float32", "int64[1,128]"),
    "half": (lambda: nn.Linear(8, 4).half(), "2x8", "float16, got float32", "float16[2,8]"),
    "half conv": (lambda: nn.Conv2d(3, 4, 3).half(), "1x3x8x8", "float16, got float32", "float16[1,3,8,8]"),
    "half norm": (lambda: nn.LayerNorm(8).half(), "2x8", "float16, got float32", "float16[2,8]"),
    "bfloat16": (lambda: nn.Linear(8, 4).bfloat16(), "2x8", "bfloat16, got float32", "bfloat16[2,8]"),
    "double": (lambda: nn.Linear(8, 4).double(), "2x8", "float64, got float32", "float64[2,8]"),
    "whole numbers": (lambda: nn.Linear(8, 4), "int64[2,8]", "float32, got int64", "float32[2,8]"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("device", [None, "meta", "cpu"])
def test_it_says_what_was_wanted_and_what_would_fit(name: str, device: str | None) -> None:
    make, inputs, said, fits = CASES[name]
    with pytest.raises(ForwardError) as error:
        inspector.profile(nn.Sequential(make()), inputs, device=device)
    assert f"expects {said}" in error.value.message
    assert error.value.hint == f"pass `inputs={fits!r}`"
    assert error.value.report is not None


def test_what_fits_does(  # the hint is not only well meant
) -> None:
    for make, _, _, fits in CASES.values():
        inspector.profile(nn.Sequential(make()), fits)


def test_the_number_of_dimensions() -> None:
    for make, inputs in ((lambda: nn.Conv1d(3, 4, 3), "1x3x4x4"), (lambda: nn.Conv2d(3, 4, 3), "8x8")):
        with pytest.raises(ForwardError, match="dimensions, got"):
            inspector.profile(make(), inputs)


def test_the_command_says_it_first_and_shows_what_ran(inspect: Run) -> None:
    code, out, err = inspect("profile", "resnet18", "--input", "1x1x64x64")
    assert code == 2
    assert err.splitlines()[0].startswith("error: module 'conv1' (Conv2d) expects 3 channels, got 1")
    assert "hint: pass --input 'float32[1,3,64,64]'" in err
    assert out == ""  # nothing ran


def test_the_command_shows_what_ran_before(inspect: Run, tmp_path: Any) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\nnet = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(5, 2, 1))\n")
    code, out, err = inspect("profile", f"{file}:net", "--input", "1x3x8x8")
    assert code == 2
    assert err.splitlines()[0].startswith("error: module '1' (Conv2d) expects 5 channels, got 4")
    assert "the totals cover only what ran before it" in out
    assert "768" in out  # 4 x 3 MACs on 64 pixels


def test_a_string_that_looks_like_a_shape(inspect: Run) -> None:
    with pytest.raises(ForwardError) as error:
        inspector.profile(nn.Linear(3, 4), {"input": "1x3"})
    assert "a string among call arguments is a value" in str(error.value.hint)


class Mixed(nn.Module):
    """Half the work in bfloat16: what autocast on a device casts, meta is not told of."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4).bfloat16()

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.linear(x)


def test_what_only_meta_takes_is_asked_of_the_cpu() -> None:
    report = inspector.profile(Mixed(), "2x8")
    assert (report.metrics["macs"].value, report.subject["device"]) == (64, "cpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("vit_base_patch16_224", "write timm:vit_base_patch16_224"),
        ("gpt2", "write hf:FOLDER, a folder with the config.json of this gpt2 model"),
        ("bert-base-uncased", "a folder with the config.json of this bert model"),
        ("resnet5O", "did you mean resnet50"),
    ],
)
def test_names_without_a_source_are_searched_elsewhere(name: str, says: str, inspect: Run) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("transformers")
    code, _, err = inspect("profile", name)
    assert (code, says in err) == (2, True), err


def test_a_file_or_a_folder_of_that_name(
    inspect: Run, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text("")
    (tmp_path / "mybert").mkdir()
    (tmp_path / "mybert" / "config.json").write_text("{}")
    assert "write mynet.py:NAME" in inspect("profile", "mynet")[2]
    assert "write hf:mybert" in inspect("profile", "mybert")[2]


class Asks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor, mask: Tensor, causal: bool = True) -> Tensor:
        return self.linear(x) * mask if causal else self.linear(x)

    def encode(self, x: Tensor, *, scale: float) -> Tensor:
        return self.linear(x) * scale


@pytest.mark.parametrize(
    ("inputs", "message", "hint"),
    [
        ("1x8", "Asks.forward() needs `mask`",
         "add `inputs=['mask=int64[...]']`, with its dtype and shape"),
        (["x=1x8", "msk=4"], "Asks.forward() takes no `msk`", "did you mean mask?"),
        (["x=1x8", "mask=4", "causl:=true"], "Asks.forward() takes no `causl`", "did you mean causal?"),
        (["1x8", "4", "3", "2"], "Asks.forward() takes 3 arguments by position, not 4", "it takes: x"),
        (["1x8", "x=1x8"], "Asks.forward() gets `x` twice, by position and by name", "it takes: x"),
    ],
)  # fmt: skip
def test_a_call_that_does_not_fit_the_signature(inputs: Any, message: str, hint: str) -> None:
    with pytest.raises(ForwardError) as error:
        inspector.profile(Asks(), inputs)
    assert error.value.message == message
    assert str(error.value.hint).startswith(hint)
    assert error.value.trace.device == "meta"  # not blamed, and not run again elsewhere


def test_a_method_that_needs_a_plain_value() -> None:
    with pytest.raises(ForwardError) as error:
        inspector.profile(Asks(), "1x8", call="encode")
    assert error.value.message == "Asks.encode() needs `scale`"
    assert error.value.hint == "add `inputs=['scale:=1.0']`"
    assert inspector.profile(Asks(), ["1x8", "scale:=1.0"], call="encode").macs == 32  # as the hint says


def test_an_error_inside_is_the_models_own() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return self.missing() if hasattr(self, "missing") else len(3)  # type: ignore[arg-type]

    with pytest.raises(
        ForwardError, match="Wrong raised on float32\\[1,8\\]: TypeError: object of type 'int'"
    ):
        inspector.profile(Wrong(), "1x8")


def test_a_hook_that_completes_the_call_is_no_misfit() -> None:
    model = Asks()
    model.register_forward_pre_hook(lambda module, args: (*args, torch.ones(4, device=args[0].device)))
    assert inspector.profile(model, "1x8").macs == 32


@pytest.mark.parametrize("spec", ["resnet18", "vit_b_16"])
def test_an_image_without_a_batch(inspect: Run, spec: str) -> None:
    code, _, err = inspect("profile", spec, "--input", "3x224x224")
    assert code == 2
    assert err.endswith("hint: pass --input 'float32[1,3,224,224]': the batch comes first\n")


def test_the_command_shows_no_empty_report(inspect: Run, tmp_path: Any) -> None:
    file = tmp_path / "asks.py"
    file.write_text(
        "from torch import nn\nclass Asks(nn.Module):\n    def forward(self, x, mask): return x * mask\n"
    )
    assert inspect("profile", f"{file}:Asks", "--input", "1x8") == (
        2, "",
        "error: Asks.forward() needs `mask`\nhint: add --input 'mask=int64[...]', with its dtype and shape\n",
    )  # fmt: skip


def test_without_an_input_the_hint_asks_for_what_the_signature_needs(inspect: Run, tmp_path: Any) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\n"
        "class Image(nn.Module):\n    def forward(self, x): return x\n"
        "class Text(nn.Module):\n    def forward(self, ids): return ids\n"
        "class Both(nn.Module):\n    def forward(self, ids, *, lengths, pool='mean'): return ids\n"
    )
    hints = [inspect("profile", f"{file}:{name}")[2].splitlines()[1] for name in ("Image", "Text", "Both")]
    end = "or define example_inputs() in its file"
    assert hints == [
        f"hint: pass one with --input 1x3x224x224, {end}",
        f"hint: pass --input 'ids=int64[...]', with their dtypes and shapes, {end}",
        "hint: pass --input 'ids=int64[...]' --input 'lengths=int64[...]', with their dtypes and shapes,"
        f" {end}",
    ]
