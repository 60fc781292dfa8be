"""transformers models from a local configuration: no hub, no weights, no remote code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.models.inputs import Inputs
from inspector.models.subject import Recipe

_TO_BUILDER = ("attn_implementation", "experts_implementation")
"""Arguments that choose kernels: they go to the constructor, all others change the configuration."""
_LOCAL = {"trust_remote_code": False}
"""Without it transformers asks on the terminal whether to run code that a configuration names."""


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InspectError(
            "transformers is not installed", "install it with: pip install 'inspector[hf]'"
        ) from error
    return transformers


def recipe(path: str, model_args: Mapping[str, Any]) -> Recipe:
    """`DIR` with a config.json, or the path of the JSON file itself."""
    transformers = _transformers()
    file = Path(path).expanduser()
    file = file / "config.json" if file.is_dir() else file
    if not file.is_file():
        raise InspectError(
            f"no configuration at {file}", "name a folder with a config.json, or the JSON file"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        model_type = content["model_type"]
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise InspectError(
            f"{file} is not a model configuration", "it needs JSON with a model_type"
        ) from error
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise InspectError(
            f"{file}: transformers {transformers.__version__} has no model_type {model_type!r}",
            nearest(str(model_type), transformers.CONFIG_MAPPING, "check the file's model_type"),
        )
    changes = {k: v for k, v in model_args.items() if k not in _TO_BUILDER}
    chosen = {k: v for k, v in model_args.items() if k in _TO_BUILDER}
    fields = {k: v for k, v in content.items() if k != "model_type"}
    _refuse_kernels({**fields, **model_args}, file)
    try:
        config = transformers.AutoConfig.for_model(model_type, **fields)
        unknown = [key for key in changes if not hasattr(config, key)]
        if changes and not unknown:
            config = transformers.AutoConfig.for_model(model_type, **{**fields, **changes})
    except Exception as error:  # the validators of each configuration raise their own
        message = " ".join(str(error).split())[:160]
        raise InspectError(f"{file}: {message}", "check the fields of the configuration") from error
    if unknown:
        raise InspectError(f"{model_type} has no field {unknown[0]!r}", nearest(unknown[0], config.to_dict()))
    return from_config(config, str(path), chosen)


def _refuse_kernels(fields: Any, file: Path) -> None:
    """Refuse kernels that transformers would fetch from the hub: "attn_implementation": "OWNER/NAME"."""
    for key, value in fields.items():
        if isinstance(value, dict):
            _refuse_kernels(value, file)
        elif isinstance(key, str) and key.endswith("_implementation") and "/" in str(value):
            raise InspectError(
                f"{file}: {key} {value!r} is code on the hub, which is not run", "leave it out"
            )


def from_config(config: Any, name: str, chosen: Mapping[str, Any] = {}) -> Recipe:
    """The class that the configuration's `architectures` names, else the causal or the base model."""
    transformers = _transformers()
    listed = getattr(config, "architectures", None)
    wanted = listed[0] if isinstance(listed, list) and listed else None
    cls = getattr(transformers, wanted, None) if isinstance(wanted, str) else None

    def construct() -> nn.Module:
        if cls is not None:
            return cls._from_config(config, **chosen)
        try:
            return transformers.AutoModelForCausalLM.from_config(config, **_LOCAL, **chosen)
        except ValueError:
            return transformers.AutoModel.from_config(config, **_LOCAL, **chosen)

    return Recipe(
        name=name,
        source="huggingface",
        construct=construct,
        defaults=_once_a_phase(default_inputs),
        rules=RULES,
        context=lambda model: _one_sequence_a_row(),
        notes=(*_left_out(config), *_not_run(config, cls)),
    )


def _left_out(config: Any) -> tuple[str, ...]:
    """Quantisation needs the weights, or a library and a device of its own: what is built instead."""
    asked = getattr(config, "quantization_config", None)
    if not asked:
        return ()
    fields: dict[str, Any] = asked if isinstance(asked, dict) else vars(asked)
    method = fields.get("quant_method", "unknown")
    bits = fields.get("bits") or next((n for n in (4, 8) if fields.get(f"load_in_{n}bit")), None)
    kind = f"{getattr(method, 'value', method)}" + (f", {bits} bits" if bits else "")
    return (
        f"the configuration's quantization_config ({kind}) is left out: its weights are built unquantised",
    )


def _not_run(config: Any, cls: Any) -> tuple[str, ...]:
    """Code that the configuration brings along: which of transformers' own classes stands in for it."""
    if cls is not None or not getattr(config, "auto_map", None):
        return ()
    stand_in = f"built as transformers' {config.model_type} model"
    return (f"the configuration's own code (auto_map) is not run: {stand_in}",)


@contextmanager
def _one_sequence_a_row() -> Iterator[None]:
    """Without a cache transformers reads from the positions whether several sequences are packed into one
    row. On meta they have no values: a row is one sequence, as it is without positions of one's own."""
    try:
        from transformers import masking_utils

        look = masking_utils.find_packed_sequence_indices
    except (ImportError, AttributeError):  # this version does not look
        yield
        return

    def find_packed_sequence_indices(position_ids: Tensor) -> Any:
        return None if position_ids.device.type == "meta" else look(position_ids)

    masking_utils.find_packed_sequence_indices = find_packed_sequence_indices
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look


def grouped_mm(a: Tensor, b: Tensor, offsets: Any = None, *_: Any, **__: Any) -> Any:
    """On meta torch 2.8 takes bfloat16 only; the shapes are those of any other dtype. Matrices with
    two dimensions are grouped: their rows, columns or (both) the dimension that is summed."""
    if a.device.type != "meta" or a.dtype is torch.bfloat16:
        return NotImplemented
    groups = () if a.dim() != b.dim() else (a.shape[0],) if a.dim() == 3 else offsets.shape
    return a.new_empty((*groups, a.shape[-2], b.shape[-1]))


RULES = {"aten._grouped_mm": grouped_mm}


def _once_a_phase(
    defaults: Callable[[nn.Module, str], Inputs | None],
) -> Callable[[nn.Module, str], Inputs | None]:
    """The same configuration builds the same model: what was tried for one is known for the next."""
    chosen: dict[str, Inputs | None] = {}

    def inputs(model: nn.Module, phase: str) -> Inputs | None:
        if phase not in chosen:
            chosen[phase] = defaults(model, phase)
        return chosen[phase]

    return inputs


def default_inputs(model: Any, phase: str) -> Inputs | None:
    """What the class and its configuration say that the model is called with: see `transformers_inputs`."""
    from inspector.models.transformers_inputs import Trial, default_inputs

    return default_inputs(model, phase, Trial(RULES, lambda model: _one_sequence_a_row()))
