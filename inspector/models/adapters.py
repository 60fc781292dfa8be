"""Low-rank adapters on a model: peft puts them beside its layers, and freezes all that was there."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.core.values import yaml_value
from inspector.models.subject import Recipe

PEFT = "peft"
"""Among `model_args`: the adapters, as `adapted` reads them."""
_HINT = "write r=16,targets=q_proj+v_proj; further: alpha=32, dropout=0.05, dora=true, rslora=true"
_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "r": ("r", int),
    "alpha": ("lora_alpha", (int, float)),
    "dropout": ("lora_dropout", (int, float)),
    "dora": ("use_dora", bool),
    "rslora": ("use_rslora", bool),
}


def adapted(recipe: Recipe, text: str) -> Recipe:
    """The recipe of the model with LoRA adapters on the layers that `text` names:
    "r=16,targets=q_proj+v_proj". Without targets peft's own choice for the kind of model; all-linear is
    every Linear but the head. Raises InspectError for what cannot be read, without peft, and when the model
    is built for targets that it has not."""
    options = _read(text)
    if find_spec("peft") is None:
        raise InspectError("peft is not installed", "install it with: pip install 'inspector[peft]'")

    def construct() -> nn.Module:
        model = recipe.construct()
        return _injected(model if recipe.rebuilds else copy.deepcopy(model), options)

    note = f"with LoRA adapters ({text}): trainable, all other parameters are frozen"
    return replace(recipe, construct=construct, notes=(*recipe.notes, note), checks=lambda entries: ())


def _read(text: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for part in str(text).split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value or (name != "targets" and name not in _KINDS):
            raise InspectError(f"cannot read {part.strip()!r} of the adapters", _HINT)
        if name == "targets":
            options["target_modules"] = value if value == "all-linear" else value.split("+")
            continue
        field, kind = _KINDS[name]
        number = yaml_value(value, f"the adapters' {name}")
        negative = isinstance(number, (int, float)) and number < 0
        if not isinstance(number, kind) or negative or (isinstance(number, bool) and kind is not bool):
            raise InspectError(f"the adapters' {name} cannot be {value!r}", _HINT)
        options[field] = number
    if options.get("r", 1) < 1:
        raise InspectError("adapters of rank 0 are none", _HINT)
    return options


def _injected(model: nn.Module, options: dict[str, Any]) -> nn.Module:
    import peft

    try:
        return peft.inject_adapter_in_model(peft.LoraConfig(**options), model)
    except (ValueError, TypeError) as error:
        names = sorted({path.rpartition(".")[2] for path, one in model.named_modules() if _linear(one)})
        known = f"its Linear layers are called: {', '.join(names[:12])}" if names else _HINT
        raise InspectError(f"the adapters do not fit: {first_line(error)}", known) from error


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
