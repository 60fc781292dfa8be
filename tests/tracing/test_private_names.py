"""Every private name of torch stands in one file, and its absence is told in plain words."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import inspector
from inspector.core.errors import InspectError
from inspector.tracing import _torch

ROOT = Path(inspector.__file__).parent
PUBLIC = {"_replace", "_fields", "_make", "_asdict", "_getframe", "_exit", "_Environ"}
"""Names of the standard library that begin with an underscore and are documented."""


def private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name not in PUBLIC


def own_names(tree: ast.AST) -> set[str]:
    """What a file defines itself, attributes of `self` included."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names |= {node.attr} if node.value.id in ("self", "cls") else set()
    return names


def foreign_privates(source: str) -> Iterator[str]:
    """Private names of other packages: imported, read as an attribute, or asked for by a string."""
    tree = ast.parse(source)
    own = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                path = f"{module}.{alias.name}"
                if "inspector" not in path and any(map(private, path.split("."))):
                    yield path
        elif isinstance(node, ast.Attribute) and private(node.attr):
            of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not of_itself and node.attr not in own:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "hasattr", "setattr", "delattr"):
                asked = node.args[1]
                if isinstance(asked, ast.Constant) and any(map(private, str(asked.value).split("."))):
                    yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "from torch._C import x",
        "from torch.nn.modules.batchnorm import _NormBase",
        "import torch._dynamo",
        "torch._C.f()",
        "tensor._version",
        "getattr(model, '_orig_mod', None)",
        "def f():\n    from torch.utils._pytree import tree_map",
    ],
)
def test_the_search_sees_each_way_to_write_a_private_name(source: str) -> None:
    assert list(foreign_privates(source))


@pytest.mark.parametrize(
    "source",
    [
        "self._x = 1\nother._x",
        "row._replace(a=1)",
        "x.__dict__",
        "def _f(): ...\nmodule._f",
        "from inspector.tracing import _torch",
    ],
)
def test_the_search_is_silent_on_names_of_ones_own(source: str) -> None:
    assert not list(foreign_privates(source))


def test_private_names_of_torch_stand_in_one_file_and_those_of_its_compiler_in_another() -> None:
    places = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in sorted(ROOT.rglob("*.py"))
        if file.name not in ("_torch.py", "_deferred.py")
        and file.parent.name != "cli"  # which handles nothing of torch
        for name in foreign_privates(file.read_text())
    }
    assert places == {"distributed/start.py: atexit._run_exitfuncs"}  # Python's own, for a fork that ends


@pytest.mark.parametrize("name", _torch.NAMES)
def test_this_torch_has_each_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(_torch), name, raising=False)
    monkeypatch.setattr(_torch, "FALLBACKS", {})
    assert getattr(_torch, name) is not None


def members() -> dict[str, Any]:
    """An object of each class in `MEMBERS`."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn as detector
    from torchvision.models.mobilenetv2 import InvertedResidual

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = torch.ao.nn.quantized.Conv2d(1, 1, 1), torch.ao.nn.quantized.Linear(1, 1)
    with torch.device("meta"):
        proposals = detector(weights=None, weights_backbone=None).rpn
    module, parameter = nn.Linear(1, 1), nn.Parameter(torch.ones(1))
    modules = (
        "parameters_of", "buffers_of", "children_of", "non_persistent_of", "pre_hooks_of", "forward_hooks_of",
    )  # fmt: skip
    tensors = (
        "gradient_hooks_of", "accumulation_hooks_of", "version_of", "is_view", "sparse_indices_of",
        "sparse_values_of",
    )  # fmt: skip
    return {
        **dict.fromkeys(modules, module),
        **dict.fromkeys(tensors, parameter),
        "sequence_number_of": (parameter * 2).grad_fn,
        "schema_of": torch.ops.aten.add.Tensor,
        "unregister": torch.library.Library("inspector_test", "FRAGMENT"),
        "compiled_from": torch.compile(module),
        "packed_pair_of": quantized[0],
        "packed_of": quantized[1],
        "reduces": InvertedResidual(1, 1, 2, 1),
        "proposals_of": proposals,
    }


def test_objects_of_this_torch_have_each_member() -> None:
    objects = members()
    assert objects.keys() == _torch.MEMBERS.keys()
    for name, path in _torch.MEMBERS.items():
        assert hasattr(objects[name], path.rpartition(".")[2]), path


@pytest.mark.parametrize("name", _torch.NAMES)
def test_a_name_that_is_gone_has_a_fallback_or_a_clear_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN a torch in which the name is called otherwise
    path = _torch.NAMES[name] + "_renamed"
    monkeypatch.setitem(_torch.NAMES, name, path)
    monkeypatch.delitem(vars(_torch), name, raising=False)
    if name in _torch.FALLBACKS:
        assert getattr(_torch, name) is _torch.FALLBACKS[name]
        return
    # THEN its first use names it, and the version
    with pytest.raises(InspectError) as caught:
        getattr(_torch, name)
    version = torch.__version__.partition("+")[0]
    assert path in caught.value.message
    assert version in caught.value.message or path.startswith("torchvision")
    assert _torch.TESTED in (caught.value.hint or "")


@pytest.mark.parametrize("name", _torch.MEMBERS)
def test_a_member_that_is_gone_has_a_fallback_or_a_clear_error(name: str) -> None:
    read = getattr(_torch, name)
    if name in _torch.FALLBACKS:
        assert read(object()) is _torch.FALLBACKS[name]
        return
    with pytest.raises(InspectError) as caught:
        read(object())
    assert _torch.MEMBERS[name] in caught.value.message


def test_an_import_of_a_name_that_is_gone_is_a_clear_error_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_torch.NAMES, "tree_map", "torch.utils._pytree_renamed.tree_map")
    monkeypatch.delitem(vars(_torch), "tree_map", raising=False)
    with pytest.raises(InspectError, match=r"torch\.utils\._pytree_renamed\.tree_map"):
        from inspector.tracing._torch import tree_map  # noqa: F401


def test_an_unknown_name_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _torch.nothing  # noqa: B018
