"""Which tensors a scheme applies to: every parameter of a model with its layer, its role and its fans."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError
from inspector.initialization import parametrized
from inspector.tracing import _torch
from inspector.tracing.storage import same_values_id

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
NORMS = (_torch.NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
DEFAULT_KINDS = ("convolution", "transposed", "linear", "bilinear", "attention", "other")
"""Kinds of layers that are initialised unless `layers` names others: what holds a weight matrix or kernel.
Embeddings, recurrent and norm layers have conventions of their own and must be named."""


@dataclass(frozen=True)
class Fans:
    """How many inputs reach one output, and outputs one input. `fan_in` and `fan_out` are what
    torch.nn.init computes from the shape; the effective ones know groups, stride and transposition."""

    fan_in: int
    fan_out: int
    effective_in: float
    effective_out: float

    @property
    def differ(self) -> bool:
        return (self.fan_in, self.fan_out) != (self.effective_in, self.effective_out)


@dataclass(frozen=True)
class Target:
    """One tensor: `name` as in state_dict, `role` weight, bias, norm weight, norm bias or other. `read`
    gives the values that a law speaks of (of a weight-normalised layer the product, not its factors).
    `fans` are those of its layer's weight. `module` is None for a tensor of a file."""

    name: str
    layer: str
    kind: str
    role: str
    read: Callable[[], Tensor] = field(repr=False)
    fans: Fans | None = None
    module: nn.Module | None = field(default=None, repr=False)
    attribute: str = ""
    aliases: tuple[str, ...] = ()

    @property
    def type(self) -> str:
        return type(self.module).__name__ if self.module is not None else self.kind


def kind_of(module: nn.Module) -> str:
    """The family of a layer: it decides which tensors are weights and which law is the default."""
    families: dict[str, Any] = {
        "transposed": TRANSPOSED,
        "convolution": CONVOLUTIONS,
        "bilinear": nn.Bilinear,
        "linear": nn.Linear,
        "attention": nn.MultiheadAttention,
        "embedding": EMBEDDINGS,
        "recurrent": RECURRENT,
        "norm": NORMS,
    }
    for kind, classes in families.items():
        if isinstance(module, classes):
            return kind
    name = type(module).__name__.lower()
    return "norm" if name.endswith(("norm", "norm1d", "norm2d", "norm3d")) else "other"


def fans_of(shape: tuple[int, ...], module: nn.Module | None = None) -> Fans | None:
    """The fans of a weight of two or more dimensions, else None.

    torch's (`_calculate_fan_in_and_fan_out`): size(1) and size(0) times the kernel. Effective: a
    transposed convolution has in/groups * kernel / stride^d inputs to an output and out/groups * kernel
    outputs to an input; a grouped one out/groups * kernel outputs to an input.
    """
    if len(shape) < 2:
        return None
    kernel = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * kernel, shape[0] * kernel
    effective: tuple[float, float] = (fan_in, fan_out)
    if isinstance(module, TRANSPOSED):
        inputs = shape[0] // module.groups * kernel
        effective = (inputs / math.prod(module.stride), fan_in)
    elif isinstance(module, CONVOLUTIONS):
        effective = (fan_in, fan_out // module.groups)
    elif type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # transformers: weight is [in, out]
        effective = (fan_out, fan_in)
    return Fans(fan_in, fan_out, *effective)


def of_model(model: nn.Module) -> list[Target]:
    """Every parameter of a model once, in the order of its modules; tied names are aliases. Raises
    InspectError for a parameter that still waits for its first input."""
    targets: dict[object, Target] = {}
    for path, module in model.named_modules():
        if "parametrizations" in path.split("."):
            continue  # their originals are reached through the layer that they belong to
        for target in _of_module(path, module):
            key = _key(target)
            if key in targets:
                targets[key] = replace(targets[key], aliases=(*targets[key].aliases, target.name))
            else:
                targets[key] = target
    return list(targets.values())


def _key(target: Target) -> object:
    """One tensor, or one storage under several tensors, is one target."""
    assert target.module is not None
    return same_values_id(parametrized.source(target.module, target.attribute))


def _of_module(path: str, module: nn.Module) -> Iterator[Target]:
    kind, names, fans = kind_of(module), parametrized.names(module), None
    _refuse_lazy(path, module)
    if "weight" in names:
        fans = fans_of(tuple(parametrized.source(module, "weight").shape), module)
    for name in names:
        tensor = parametrized.source(module, name)
        yield Target(
            name=f"{path}.{name}" if path else name,
            layer=path,
            kind=kind,
            role=_role(kind, name, tensor.dim()),
            read=_reader(module, name),
            fans=fans if name in ("weight", "bias") else fans_of(tuple(tensor.shape)),
            module=module,
            attribute=name,
        )


def _reader(module: nn.Module, name: str) -> Callable[[], Tensor]:
    return lambda: _without_padding(module, parametrized.values(module, name))


def _without_padding(module: nn.Module, tensor: Tensor) -> Tensor:
    """An embedding without its padding row: zeros by definition, of no law."""
    index = getattr(module, "padding_idx", None)
    if index is None or not isinstance(module, EMBEDDINGS) or tensor.is_meta or tensor[index].any():
        return tensor
    index %= len(tensor)
    return torch.cat([tensor[:index], tensor[index + 1 :]])


def _refuse_lazy(path: str, module: nn.Module) -> None:
    for tensor in _torch.parameters_of(module).values():
        if isinstance(tensor, nn.parameter.UninitializedParameter):
            raise InspectError(
                f"{path or type(module).__name__} waits for its first input: its shape is still unknown",
                "give `inputs=`, or run the model once before",
            )


def _role(kind: str, name: str, dims: int) -> str:
    if kind == "norm":
        return "norm bias" if name == "bias" else "norm weight"
    if kind == "recurrent":
        return "bias" if "bias" in name else "weight"
    if name in ("bias", "in_proj_bias"):
        return "bias"
    projections = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return "weight" if dims >= 2 and (name == "weight" or name in projections) else "other"


def of_tensors(tensors: Mapping[str, Tensor]) -> list[Target]:
    """The tensors of a checkpoint, by name and shape: `.weight` of 2 dimensions is linear, of 3 to 5 a
    convolution, of 1 a norm; a `.bias` has the fans of the weight beside it. Groups, transposition and
    embeddings cannot be seen in a file."""
    return [
        _of_name(name, tensor, tensors)
        for name, tensor in tensors.items()
        if not name.endswith("num_batches_tracked")  # a counter
    ]


def _of_name(name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Target:
    layer, _, last = name.rpartition(".")
    weight = tensors.get(f"{layer}.weight" if layer else "weight")
    dims = weight.dim() if weight is not None else 0
    kind = {1: "norm", 2: "linear", 3: "convolution", 4: "convolution", 5: "convolution"}.get(dims, "other")
    if last not in ("weight", "bias"):
        kind = "attention" if last.startswith("in_proj_") else "other"
    role = _role(kind, last, tensor.dim())
    if not tensor.is_floating_point() or last.startswith("running_"):
        role = "other"
    shape = tuple(weight.shape) if weight is not None and last == "bias" else tuple(tensor.shape)
    return Target(name, layer, kind, role, lambda: tensor, fans_of(shape))


def chosen(targets: list[Target], layers: list[str] | None, everything: bool = False) -> list[Target]:
    """The targets of the layers that `layers` (globs) select; without globs, those of the layers that
    hold a weight of two or more dimensions and have no convention of their own, or `everything`.

    Raises InspectError for a glob without a match, and when nothing remains."""
    if layers:
        from inspector.core.naming import select

        paths = list(dict.fromkeys(t.layer for t in targets))
        names = set(select(paths, layers, "layer", "layers"))
        selected = [t for t in targets if t.layer in names]
    else:
        selected = [t for t in targets if everything or t.kind in DEFAULT_KINDS]
        if not everything:
            held = {t.layer for t in selected if t.role == "weight"}
            selected = [t for t in selected if t.layer in held]
    if not selected:
        raise InspectError(
            "the model has no layer with a weight of two or more dimensions",
            'name layers with `layers=`, e.g. `layers=["norm*"]`',
        )
    return selected
