"""The user's own model from a file or a package."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.core.errors import InspectError
from inspector.models import resolve
from inspector.models.python import from_module

PARAMS = (3 * 16 * 9 + 16) + 2 * 16 + (16 * 10 + 10)
"""Of `net_file`: a convolution, a norm and a linear layer; a width of 4 gives 112 + 8 + 50 = 170."""

MORE = """
class Outer:
    class Inner(nn.Module):
        pass
    made = Net(4)

ready = Net()
text = "no model"

def nothing(): return None
def pair(): return Net(), 1
def quits(): raise SystemExit(3)
def breaks(): raise RuntimeError("one\\ntwo")
def needs(width, depth): return Net(width)
"""


@pytest.fixture
def net(net_file: Path) -> str:
    """The path of a file with more than the manual's example in it."""
    net_file.write_text(net_file.read_text() + MORE)
    return str(net_file)


def count(spec: str, **model_args: Any) -> int:
    return inspector.params(spec, model_args=model_args).metrics["params"].value


def refused(spec: str, **model_args: Any) -> InspectError:
    with pytest.raises(InspectError) as caught:
        resolve(spec, model_args).build("meta")
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("attribute", ["Net", "build", "ready"])
def test_a_file_offers_a_class_a_function_and_an_instance(net: str, attribute: str) -> None:
    assert count(f"{net}:{attribute}") == PARAMS


def test_an_attribute_may_be_nested(net: str) -> None:
    assert count(f"{net}:Outer.made") == 170
    assert count(f"{net}:Outer.Inner") == 0


def test_a_package_is_named_with_dots() -> None:
    # A linear layer from 3 to 4 features has 3 * 4 weights and 4 biases.
    assert count("torch.nn:Linear", in_features=3, out_features=4) == 16


def test_a_package_in_the_working_folder_is_found(net_file: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(net_file.parent)
    monkeypatch.delitem(sys.modules, "your_net", raising=False)
    assert count("your_net:Net") == PARAMS
    monkeypatch.delitem(sys.modules, "your_net")


def test_model_arguments_reach_the_class_and_the_function(net: str) -> None:
    assert count(f"{net}:Net", width=4) == count(f"{net}:build", width=4) == 170


def test_the_command_line_passes_model_arguments_as_yaml(net: str, inspect: Any) -> None:
    code, out, err = inspect("params", f"{net}:build", "--model-arg", "width=4")
    assert (code, err) == (0, "")
    assert "170" in out


def test_an_instance_takes_no_model_arguments(net: str) -> None:
    assert "finished model" in refused(f"{net}:ready", width=4).message


@pytest.mark.parametrize("arguments", [{"wdth": 4}, {"width": 4, "height": 1}])
def test_wrong_arguments_are_named_with_the_signature(net: str, arguments: Any) -> None:
    error = refused(f"{net}:build", **arguments)
    assert "(width=16)" in error.message
    assert list(arguments)[-1] in error.message
    assert "`model_args=" in (error.hint or "")


def test_a_missing_argument_is_named(net: str) -> None:
    assert "'width'" in refused(f"{net}:needs").message


def test_a_missing_attribute_lists_the_ones_that_exist(net: str) -> None:
    assert "did you mean build?" in (refused(f"{net}:biuld").hint or "")
    hint = refused(f"{net}:zzz").hint or ""
    assert all(name in hint for name in ("Net", "build", "ready", "needs"))
    assert "nn" not in hint.replace(",", "").split()
    assert "Inner" in (refused(f"{net}:Outer.Iner").hint or "")


def test_a_missing_attribute_of_a_package_suggests_what_it_imports() -> None:
    assert "resnet50" in (refused("torchvision.models:resnt50").hint or "")


def test_a_file_without_an_attribute_asks_for_one(net: str) -> None:
    error = refused(net)
    assert "which model?" in error.message
    assert "Net" in (error.hint or "")


@pytest.mark.parametrize(("attribute", "said"), [("nothing", "NoneType"), ("pair", "tuple"), ("text", "str")])
def test_what_is_not_a_module_is_refused_by_its_type(net: str, attribute: str, said: str) -> None:
    error = refused(f"{net}:{attribute}")
    assert said in error.message
    assert "nn.Module" in error.message


def test_a_constructor_that_raises_or_exits_is_an_error(net: str) -> None:
    assert "RuntimeError: one" in refused(f"{net}:breaks").message
    assert "SystemExit(3)" in refused(f"{net}:quits").message


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\nraise ValueError('bad')", "ValueError: bad"),
        ("import sys; sys.exit(7)", "SystemExit: 7"),
        ("def f(:", "SyntaxError"),
        ("import no_such_package_of_mine", "no_such_package_of_mine"),
        ("from .sibling import x", "ImportError"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_file_that_fails_on_import_is_one_line_and_a_hint(
    tmp_path: Path, inspect: Any, source: str, said: str
) -> None:
    file = tmp_path / "broken_net.py"
    file.write_text(source)
    modules = set(sys.modules)
    code, out, err = inspect("profile", f"{file}:Net")
    assert (code, out) == (2, "")
    message, hint = err.splitlines()
    assert message.startswith("error: ")
    assert said in message
    assert hint.startswith("hint: ")
    assert "inspected_broken_net" not in set(sys.modules) - modules


def test_the_line_that_raised_on_import_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("x = 1\n\nraise ValueError('bad')\n")
    assert "line 3" in (refused(f"{file}:x").hint or "")


@pytest.mark.parametrize("spec", ["nowhere.py:Net", "nowhere/net.py:Net", "nowhere:Net", "no.where:Net"])
def test_a_place_that_does_not_exist_is_named(spec: str) -> None:
    assert spec.partition(":")[0] in refused(spec).message


@pytest.mark.parametrize("spec", ["", "net.py:", ":", "timm:"])
def test_a_spec_that_names_nothing_is_refused(spec: str) -> None:
    assert "names no model" in refused(spec).message


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    (tmp_path / "d.py").mkdir()
    assert "no file" in refused(f"{tmp_path}/d.py:Net").message


EXAMPLES = {
    "torch.zeros(2, 3, 8, 8)": ["float32[2,3,8,8]"],
    "(torch.zeros(2, 3, 8, 8),)": ["float32[2,3,8,8]"],
    "{'x': torch.zeros(2, 3, 8, 8)}": ["x=float32[2,3,8,8]"],
    "'2x3x8x8'": ["float32[2,3,8,8]"],
    "['x=2x3x8x8']": ["x=float32[2,3,8,8]"],
    "([], {'x': torch.zeros(2, 3, 8, 8)})": ["x=float32[2,3,8,8]"],
}


@pytest.mark.parametrize("returned", EXAMPLES)
def test_the_files_example_inputs_are_the_default(net_file: Path, returned: str) -> None:
    with net_file.open("a") as stream:
        stream.write(f"\n\ndef example_inputs():\n    return {returned}\n")
    report = inspector.profile(f"{net_file}:Net")
    assert report.subject["inputs"] == EXAMPLES[returned]
    # 2 images of 8x8: the convolution 2*16*64 outputs of 27 MACs each, the head 2*16*10.
    assert report.metrics["macs"].value == 2 * 16 * 64 * 27 + 2 * 16 * 10


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('bad')", "ValueError: bad"),
        ("raise SystemExit(1)", "SystemExit"),
        ("return None", "returned None"),
        ("return '1xx3'", "1xx3"),
    ],
)
def test_example_inputs_that_fail_are_an_error(net_file: Path, inspect: Any, body: str, said: str) -> None:
    with net_file.open("a") as stream:
        stream.write(f"\n\ndef example_inputs():\n    {body}\n")
    code, out, err = inspect("profile", f"{net_file}:Net")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[0]


def test_a_file_without_examples_asks_for_an_input(net_file: Path, inspect: Any) -> None:
    code, _, err = inspect("profile", f"{net_file}:Net")
    assert code == 2
    assert "--input" in err
    assert "example_inputs()" in err


def test_siblings_can_be_imported_at_once_and_when_the_model_is_built(
    tmp_path: Path, monkeypatch: Any
) -> None:
    # GIVEN a file that imports a sibling at its head and another in its function
    (tmp_path / "sibling_early_x.py").write_text("WIDTH = 3\n")
    (tmp_path / "sibling_late_x.py").write_text("DEPTH = 5\n")
    (tmp_path / "sibling_net.py").write_text(
        "from torch import nn\nfrom sibling_early_x import WIDTH\n"
        "def build():\n    from sibling_late_x import DEPTH\n    return nn.Linear(WIDTH, DEPTH)\n"
    )
    path = list(sys.path)
    # WHEN it is built from another folder
    monkeypatch.chdir("/")
    # THEN both are found (3 * 5 weights, 5 biases), and the path is as before
    assert count(f"{tmp_path}/sibling_net.py:build") == 20
    assert sys.path == path
    for name in ("sibling_early_x", "sibling_late_x", "inspected_sibling_net"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_path_is_restored_when_the_file_raises(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import sys\nsys.path.append('/nowhere')\nraise ValueError\n")
    path = list(sys.path)
    refused(f"{file}:x")
    assert sys.path == path


def test_a_file_with_dataclasses_and_annotations_loads(tmp_path: Path) -> None:
    file = tmp_path / "typed_net.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "@dataclass\nclass Size:\n    width: int = 2\n"
        "def build() -> nn.Module:\n    return nn.Linear(Size().width, 2, bias=False)\n"
    )
    assert count(f"{file}:build") == 4


def test_a_live_instance_is_neither_moved_nor_changed() -> None:
    # GIVEN a live model in train mode
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    before = {name: (id(t), t.device, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    # WHEN it is built, listed and counted
    assert from_module(model).build("meta") is model
    inspector.params(model)
    inspector.profile(model, "4x2", phase="train")
    # THEN every tensor is the same object with the same values on the CPU
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name, (identity, device, value) in before.items():
        assert id(after[name]) == identity
        assert after[name].device == device
        assert torch.equal(after[name], value)
    assert all(module.training for module in model.modules())


def test_a_live_model_is_named_after_its_class() -> None:
    assert from_module(nn.Linear(1, 1)).name == "Linear"
    assert from_module(nn.Linear(1, 1), "mine").name == "mine"


def test_an_edit_of_the_same_second_and_size_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "wide.py"
    found = []
    for width in (2, 3):
        file.write_text(f"from torch import nn\ndef build(): return nn.Linear(4, {width}, bias=False)\n")
        os.utime(file, (1_000_000_000, 1_000_000_000))
        found.append(count(f"{file}:build"))
    assert found == [8, 12]
    assert [entry.name for entry in tmp_path.iterdir()] == ["wide.py"]
