"""transformers models from a configuration, on this machine or of the hub: without weights, and without code
of others unless that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.core.naming import nearest
from inspector.core.trust import TRUST
from inspector.models.configuration import Configuration, configuration
from inspector.models.inputs import Inputs
from inspector.models.subject import Recipe
from inspector.reporting.report import Finding
from inspector.tracing.record import StateEntry
from inspector.tracing.storage import without_values

_TO_BUILDER = ("attn_implementation", "experts_implementation")
"""Arguments that choose kernels: they go to the constructor, all others change the configuration."""
_LOCAL = {"trust_remote_code": False}
"""Without it transformers asks on the terminal whether to run code that a configuration names."""


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise _missing() from error
    return transformers


def _missing() -> InspectError:
    return InspectError("transformers is not installed", "install it with: pip install 'torch-inspector[hf]'")


def recipe(path: str, model_args: Mapping[str, Any]) -> Recipe:
    """`DIR` with a config.json, the path of the JSON file itself, or `ORG/NAME[/SUBFOLDER][@REVISION]` on the
    hub, of which the configuration alone is fetched; a part of a diffusers pipeline, too. Code that a
    repository brings along runs where `model_args` say `trust_remote_code`."""
    if find_spec("transformers") is None:
        raise _missing()
    changes = dict(model_args)
    trusted = bool(changes.pop(TRUST, False))
    source = configuration(path)
    if "_class_name" in source.content and "model_type" not in source.content:
        from inspector.models import diffusers

        return _checked(diffusers.recipe(source, changes), source, changes)
    made = _own_code(source, changes) if trusted and "auto_map" in source.content else _known(source, changes)
    return _checked(made, source, changes)


def _checked(made: Recipe, source: Configuration, changes: Mapping[str, Any]) -> Recipe:
    """With what the hub says of its weights, where the model is that of the hub."""
    place, notes = source.place, source.notes + made.notes
    if place is None or set(changes) - set(_TO_BUILDER):
        return replace(made, notes=notes)

    def checks(entries: Sequence[StateEntry]) -> tuple[Finding, ...]:
        from inspector.models.stored import held_against

        return (held_against(place, source.content, entries),)

    return replace(made, notes=notes, checks=checks)


def _known(source: Configuration, model_args: Mapping[str, Any]) -> Recipe:
    """A model of transformers' own."""
    transformers = _transformers()
    label, content = source.label, source.content
    model_type = content.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        if own := _names_of_code(content):
            raise InspectError(
                f"{label} needs code of its own ({own}), which is not run",
                'read it first, then pass `model_args={"trust_remote_code": True}`',
            )
        raise InspectError(
            f"{label}: transformers {transformers.__version__} has no model_type {model_type!r}",
            nearest(str(model_type), transformers.CONFIG_MAPPING, "check the file's model_type"),
        )
    changes, chosen = _split(model_args)
    fields = {k: v for k, v in content.items() if k != "model_type"}
    _refuse_kernels({**fields, **model_args}, label)

    def configured(**more: Any) -> Any:
        return transformers.AutoConfig.for_model(model_type, **{**fields, **more})

    return from_config(_changed(configured, changes, label, model_type), source.name, chosen)


def _own_code(source: Configuration, model_args: Mapping[str, Any]) -> Recipe:
    """A model of the code that lies beside the configuration, which runs here."""
    transformers = _transformers()
    changes, chosen = _split(model_args)
    _refuse_kernels({**source.content, **model_args}, source.label)
    folder = str(source.with_code())

    def configured(**more: Any) -> Any:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True, **more)

    config = _changed(configured, changes, source.label, source.name)
    named = {
        name: at for name, at in (getattr(config, "auto_map", None) or {}).items() if "AutoModel" in name
    }
    if not named:
        return from_config(config, source.name, chosen)
    listed = (getattr(config, "architectures", None) or [None])[0]
    fitting = [name for name, at in named.items() if str(at).rpartition(".")[2] == listed]
    usual = [name for name in ("AutoModelForCausalLM", "AutoModel") if name in named]
    kind = getattr(transformers, [*fitting, *usual, *named][0], transformers.AutoModel)
    note = f"code of {source.name} was run ({_names_of_code(source.content)})"
    return _recipe(
        config,
        source.name,
        lambda: kind.from_config(config, trust_remote_code=True, **chosen),
        (*_left_out(config), note),
    )


def _split(model_args: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What changes the configuration, and what goes to the constructor."""
    changes = {k: v for k, v in model_args.items() if k not in _TO_BUILDER}
    return changes, {k: v for k, v in model_args.items() if k in _TO_BUILDER}


def _changed(configured: Callable[..., Any], changes: Mapping[str, Any], label: str, kind: str) -> Any:
    """The configuration with `changes`, which it must have fields for."""
    try:
        config = configured()
        unknown = [key for key in changes if not hasattr(config, key)]
        if changes and not unknown:
            config = configured(**changes)
    except Exception as error:  # the validators of each configuration raise their own
        message = " ".join(str(error).split())[:160]
        raise InspectError(f"{label}: {message}", "check the fields of the configuration") from error
    if unknown:
        raise InspectError(f"{kind} has no field {unknown[0]!r}", nearest(unknown[0], config.to_dict()))
    return config


def _names_of_code(content: Mapping[str, Any]) -> str:
    """The files of code that a configuration names: "modeling_x.py, configuration_x.py"; "" for none."""
    named = content.get("auto_map")
    classes = [at for at in named.values() if isinstance(at, str)] if isinstance(named, dict) else []
    return ", ".join(dict.fromkeys(f"{at.rpartition('.')[0]}.py" for at in classes))


def _refuse_kernels(fields: Any, label: str) -> None:
    """Refuse kernels that transformers would fetch from the hub: "attn_implementation": "OWNER/NAME"."""
    for key, value in fields.items():
        if isinstance(value, dict):
            _refuse_kernels(value, label)
        elif isinstance(key, str) and key.endswith("_implementation") and "/" in str(value):
            raise InspectError(
                f"{label}: {key} {value!r} is code on the hub, which is not run", "leave it out"
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

    return _recipe(config, name, construct, (*_left_out(config), *_not_run(config, cls)))


def _recipe(config: Any, name: str, construct: Callable[[], nn.Module], notes: tuple[str, ...]) -> Recipe:
    return Recipe(
        name=name,
        source="huggingface",
        construct=construct,
        defaults=_once_a_phase(default_inputs),
        rules=RULES,
        context=lambda model: _decided(),
        notes=notes,
        stated=_stated,
    )


def of_module(recipe: Recipe) -> Recipe:
    """The recipe of a live model of transformers, with its default inputs and what it needs on meta."""
    return replace(
        recipe,
        defaults=_once_a_phase(default_inputs),
        rules=RULES,
        context=lambda model: _decided(),
        stated=_stated,
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
def _decided() -> Iterator[None]:
    """What transformers reads from values is decided once.

    Without a cache it reads from the positions whether several sequences are packed into one row: on meta,
    and as fake tensors, a row is one sequence, as it is without positions of one's own. Nor does it look, on
    any device, for padding that it would warn of, or for the token that ends a text: random weights come upon
    one at random.
    """

    def looking(look: Any) -> Any:
        def find_packed_sequence_indices(position_ids: Tensor) -> Any:
            return None if without_values(position_ids) else look(position_ids)

        return find_packed_sequence_indices

    with (
        _replaced("masking_utils", "find_packed_sequence_indices", looking),
        _replaced(
            "modeling_utils", "PreTrainedModel.warn_if_padding_and_no_attention_mask", lambda _: _no_warning
        ),
        _replaced("generation.stopping_criteria", "EosTokenCriteria.__call__", lambda _: _not_over),
    ):
        yield


def _not_over(criterion: Any, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
    return input_ids.new_zeros(input_ids.shape[0], dtype=torch.bool)


def _stated(call: str) -> tuple[str, ...]:
    text = "generation goes to its full length (`max_new_tokens`): a token that ends a text does not end it"
    return (text,) if call == "generate" else ()


def _no_warning(model: Any, input_ids: Any, attention_mask: Any) -> None:
    return None


@contextmanager
def _replaced(module: str, path: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """A function of transformers meanwhile as `change` makes it; nothing where this version has none."""
    *owners, name = path.split(".")
    try:
        owner = reduce(getattr, owners, import_module(f"transformers.{module}"))
        original = getattr(owner, name)
    except (ImportError, AttributeError):
        yield
        return
    setattr(owner, name, change(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


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

    return default_inputs(model, phase, Trial(RULES, lambda model: _decided()))
