"""From what a user names to the recipe that builds it; the file of the source is loaded when it is needed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from inspector.core.errors import InspectError
from inspector.core.trust import TRUST
from inspector.models.adapters import PEFT, adapted
from inspector.models.subject import Recipe
from inspector.tracing._torch import compiled_from

Model = str | nn.Module | Recipe


def as_recipe(model: Model, model_args: Mapping[str, Any] | None = None, call: str | None = None) -> Recipe:
    """What the Python API takes for a model, as a recipe: a spec, an nn.Module (a compiled one is the
    module that was compiled), or a recipe. `call` is the method to run, the forward without it."""
    recipe = _recipe(model, model_args)
    return recipe if call is None else replace(recipe, call=call)


def _recipe(model: Model, model_args: Mapping[str, Any] | None) -> Recipe:
    if isinstance(model, nn.Module):
        from inspector.models.exported import is_module, of_module
        from inspector.models.python import from_module

        compiled = compiled_from(model)
        module = compiled if isinstance(compiled, nn.Module) else model
        if is_module(module):
            return of_module(module)
        return _with_rules(from_module(module)) if _of_transformers(module) else from_module(module)
    if isinstance(model, Recipe):
        return model
    if isinstance(model, str):
        return resolve(model, model_args)
    from inspector.models.exported import is_program, of_program

    if is_program(model):
        return of_program(model, "ExportedProgram")
    raise InspectError(
        f"a model is a spec string or an nn.Module, not a {type(model).__name__}",
        "pass e.g. 'resnet50' or torchvision.models.resnet50()",
    )


def _of_transformers(module: nn.Module) -> bool:
    """Whether it is a model of transformers; where nobody has loaded that, nothing is."""
    kind = getattr(sys.modules.get("transformers.modeling_utils"), "PreTrainedModel", None)
    return kind is not None and isinstance(module, kind)


def _with_rules(recipe: Recipe) -> Recipe:
    """With what a model of transformers needs on meta, and is called with."""
    from inspector.models import huggingface

    return huggingface.of_module(recipe)


def resolve(spec: str, model_args: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe for `resnet50`, `torchvision:NAME[@ENTRY]`, `timm:NAME`, `hf:PATH`, `hf:ORG/NAME`, an
    exported `FILE.pt2` or TorchScript file, `path/to/file.py:ATTR` or `package.module:ATTR`. Raises
    InspectError with the nearest names."""
    arguments = dict(model_args or {})
    if PEFT in arguments:
        adapters = arguments.pop(PEFT)
        return adapted(resolve(spec, arguments), adapters)
    source, colon, name = spec.partition(":")
    if not spec or (colon and not name):
        raise InspectError(f"{spec!r} names no model", "write a name, e.g. resnet50; see: inspect models")
    if arguments.get(TRUST) and (source in ("timm", "torchvision") if colon else not spec.endswith(".py")):
        raise InspectError(f"{spec} brings no code from the hub", "leave `trust_remote_code=True` out")
    if colon and source == "timm":
        from inspector.models import timm

        return timm.recipe(name, arguments)
    if colon and source in ("hf", "huggingface"):
        from inspector.models import huggingface

        return huggingface.recipe(name, arguments)
    if source in ("http", "https"):
        path = "/".join([part for part in name.split("/") if part][1:3])
        raise InspectError(f"{spec} is an address", f"write hf:{path or 'ORG/NAME'} for a model of the hub")
    if Path(spec).suffix.lower() in (".gguf", ".safetensors"):
        raise InspectError(
            f"{spec} is a checkpoint: it holds weights, and no model that could run",
            f"list it with: inspect params {spec}",
        )
    if Path(spec).suffix.lower() == ".json":
        raise InspectError(f"{spec} is a configuration", f"write hf:{spec} for the model that it describes")
    from inspector.models import exported

    if exported.names_a_file(spec):
        return exported.recipe(spec, arguments)
    if (colon and source != "torchvision") or spec.endswith(".py"):
        from inspector.models import python

        return python.recipe(spec, arguments)
    from inspector.models import torchvision

    if not colon and spec.partition("@")[0] not in torchvision.names() and (places := _elsewhere(spec)):
        raise InspectError(f"no torchvision model is called {spec!r}", f"write {' or '.join(places)}")
    return torchvision.recipe(name if colon else spec, arguments)


def _elsewhere(name: str) -> list[str]:
    """The specs by which a name without a source would be found: in timm, in the working folder, among the
    families of transformers."""
    places = []
    if find_spec("timm"):
        import timm

        places += [f"timm:{name}"] if timm.is_model(name) else []
    places += [f"hf:{name}"] if (Path(name) / "config.json").is_file() else []
    places += [f"{name}.py:NAME"] if Path(f"{name}.py").is_file() else []
    if not places and find_spec("transformers"):
        from transformers import CONFIG_MAPPING

        words = name.lower().replace("-", "_").split("/")[-1]
        family = max(
            (f for f in CONFIG_MAPPING if _begins(words, f.replace("-", "_"))), key=len, default=None
        )
        hub = f"hf:{name}, or hf:" if name.count("/") == 1 else "hf:"
        places += [f"{hub}FOLDER, a folder with the config.json of this {family} model"] if family else []
    return places


def _begins(name: str, family: str) -> bool:
    """Whether a name is that of a family, or goes on after it: bert_base_uncased, gpt2."""
    return name == family or name.startswith(f"{family}_")
