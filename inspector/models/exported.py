"""Models that were exported: programs of torch.export (`FILE.pt2`, or live ones), TorchScript files."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.models import archive
from inspector.models.calling import shallow
from inspector.models.inputs import Inputs
from inspector.models.subject import Recipe

PROGRAMS, ARCHIVES, GRAPHS = (".pt2",), (".pt", ".pth", ".ts", ".torchscript"), (".onnx",)
AS_EXPORTED = "an exported program runs in the mode (train or eval) in which it was exported"


def names_a_file(spec: str) -> bool:
    """Whether a spec is the path of an exported file, or of one that looks like it."""
    return Path(spec).suffix.lower() in (*PROGRAMS, *ARCHIVES, *GRAPHS)


def recipe(spec: str, model_args: Mapping[str, Any]) -> Recipe:
    """The program in `FILE.pt2`, or the module in a TorchScript file. Raises InspectError for others."""
    file = Path(spec).expanduser()
    if not file.is_file():
        raise InspectError(f"no file at {spec}", "name a .pt2 or a TorchScript file")
    if file.suffix.lower() in GRAPHS:
        raise InspectError(
            f"{spec} is an ONNX graph, which PyTorch does not run",
            "name the PyTorch model that it was exported from, as file.py:NAME",
        )
    if model_args:
        raise InspectError(f"{spec} is a finished model: `model_args=` cannot reach it", "leave it out")
    archive.check(file)
    if file.suffix.lower() in PROGRAMS:
        return of_program(_load(spec, lambda: torch.export.load(file)), spec)
    if not _is_script(file):
        raise InspectError(
            f"{spec} is a checkpoint: it holds weights, and no model that could run",
            f"list it with: inspect params {spec}",
        )
    script = cache(lambda: _load(spec, lambda: torch.jit.load(file, map_location="cpu")))
    return Recipe(spec, "torchscript", script, rebuilds=False)


def of_program(program: Any, name: str) -> Recipe:
    """The recipe of a torch.export program, which knows the inputs that it was exported with."""
    made = cache(lambda: running(program.module()))
    examples = program.example_inputs
    inputs = Inputs(tuple(examples[0]), dict(examples[1])) if examples is not None else None
    return Recipe(name, "export", made, lambda *_: inputs, notes=(AS_EXPORTED,), rebuilds=False)


def is_program(model: Any) -> bool:
    """Whether it is a torch.export program; importing torch.export takes long."""
    return type(model).__name__ == "ExportedProgram" and type(model).__module__.startswith("torch.export")


def of_module(model: nn.Module) -> Recipe:
    """The recipe of what `program.module()` returned."""
    return Recipe(
        type(model).__name__, "export", lambda: running(model), notes=(AS_EXPORTED,), rebuilds=False
    )


def is_module(model: nn.Module) -> bool:
    """Whether a module refuses `train()` and `eval()`, as those of torch.export do."""
    return isinstance(model, torch.fx.GraphModule) and "train" in model.__dict__


def running(model: nn.Module) -> nn.Module:
    """A shallow twin of an exported module that takes `train()` and `eval()` and stays as it is."""
    twin = shallow(model)
    twin.__dict__.update(train=lambda mode=True: twin, eval=lambda: twin)
    return twin


def _is_script(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as content:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in content.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _load(spec: str, load: Any) -> Any:
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it would print the traceback of what the error below says
    try:
        return load()
    except Exception as error:
        raise InspectError(
            f"{spec} cannot be loaded: {first_line(error)}", "export it again with this version of torch"
        ) from error
    finally:
        logger.setLevel(level)
