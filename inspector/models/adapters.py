"""Adapters on a model (LoRA, DoRA, IA3): peft puts them on its layers, and freezes all that was there."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from torch import nn

from inspector.core.errors import InspectError, first_line
from inspector.core.values import yaml_value
from inspector.models.subject import Recipe

PEFT = "peft"
"""Among `model_args`: the adapters, as `adapted` reads them."""
_HINT = (
    "write r=16,targets=q_proj+v_proj; further: alpha=32, dropout=0.05, dora=true, rslora=true, merged=true"
)
_HINT_IA3 = "write ia3=true,targets=k_proj+v_proj+down_proj,feedforward=down_proj"
_KINDS: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "r": ("r", int),
    "alpha": ("lora_alpha", (int, float)),
    "dropout": ("lora_dropout", (int, float)),
    "dora": ("use_dora", bool),
    "rslora": ("use_rslora", bool),
    "ia3": ("ia3", bool),
    "merged": ("merged", bool),
}
_LAYERS = {"targets": "target_modules", "feedforward": "feedforward_modules"}


@dataclass(frozen=True)
class Adapters:
    """`options` are those of peft's configuration, of LoRA or of IA3. `merged`: their weights are added to
    the layers', as for inference, and the adapters are gone."""

    options: dict[str, Any]
    ia3: bool = False
    merged: bool = False

    @property
    def note(self) -> str:
        if self.merged:
            return "are merged into the layers: nothing of them is left to count, nothing trains"
        return "are trainable, all other parameters are frozen"


def adapted(recipe: Recipe, text: str) -> Recipe:
    """The recipe of the model with adapters on the layers that `text` names: LoRA's
    "r=16,targets=q_proj+v_proj", or IA3's "ia3=true,targets=k_proj+down_proj,feedforward=down_proj". Without
    targets peft's own choice for the kind of model; all-linear is every Linear but the head. Raises
    InspectError for what cannot be read, without peft, and when the model is built for targets that it has
    not."""
    adapters = _read(text)
    if find_spec("peft") is None:
        raise InspectError("peft is not installed", "install it with: pip install 'torch-inspector[peft]'")

    def construct() -> nn.Module:
        model = recipe.construct()
        return _injected(model if recipe.rebuilds else copy.deepcopy(model), adapters)

    note = f"the adapters ({text}) {adapters.note}"
    notes = (*recipe.notes, note)
    return replace(recipe, construct=construct, outline=None, notes=notes, checks=lambda entries: ())


def _read(text: Any) -> Adapters:
    options: dict[str, Any] = {}
    for part in str(text).split(","):
        name, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not value or (name not in _LAYERS and name not in _KINDS):
            raise InspectError(f"cannot read {part.strip()!r} of the adapters", _HINT)
        if name in _LAYERS:
            options[_LAYERS[name]] = value if value == "all-linear" else value.split("+")
            continue
        field, kind = _KINDS[name]
        number = yaml_value(value, f"the adapters' {name}")
        negative = isinstance(number, (int, float)) and number < 0
        if not isinstance(number, kind) or negative or (isinstance(number, bool) and kind is not bool):
            raise InspectError(f"the adapters' {name} cannot be {value!r}", _HINT)
        options[field] = number
    if options.get("r", 1) < 1:
        raise InspectError("adapters of rank 0 are none", _HINT)
    ia3, merged = options.pop("ia3", False), options.pop("merged", False)
    foreign = set(options) - set(_LAYERS.values()) if ia3 else set(options) & {"feedforward_modules"}
    if foreign:
        option = next(name for name, word in _names() if word in foreign)
        label, hint = ("IA3", _HINT_IA3) if ia3 else ("LoRA", _HINT)
        raise InspectError(f"adapters of {label} have no {option!r}", hint)
    return Adapters(options, ia3, merged)


def _names() -> Iterator[tuple[str, str]]:
    """The word in the text, and peft's, of each option."""
    yield from _LAYERS.items()
    yield from ((name, word) for name, (word, _) in _KINDS.items())


def _injected(model: nn.Module, adapters: Adapters) -> nn.Module:
    import peft

    make, tuner = (peft.IA3Config, peft.IA3Model) if adapters.ia3 else (peft.LoraConfig, peft.LoraModel)
    try:
        config = make(**adapters.options)
        if adapters.merged:
            return tuner(model, config, "default").merge_and_unload()
        return peft.inject_adapter_in_model(config, model)
    except (ValueError, TypeError) as error:
        names = sorted({path.rpartition(".")[2] for path, one in model.named_modules() if _linear(one)})
        known = f"its Linear layers are called: {', '.join(names[:12])}" if names else _HINT
        raise InspectError(f"the adapters do not fit: {first_line(error)}", known) from error


def _linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)
