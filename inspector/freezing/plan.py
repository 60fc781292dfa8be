"""What is to be frozen: parameters by stage or by pattern, and the modules whose state must not change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

from inspector.backbones import Backbone
from inspector.backbones.walk import inside
from inspector.core.errors import InspectError
from inspector.core.naming import nearest, select
from inspector.freezing.schemes import frozen_stages
from inspector.models.modes import reads_training
from inspector.tracing import _torch
from inspector.tracing._torch import NormBase

NORMS = ("freeze", "eval", "train")


@dataclass(frozen=True)
class Plan:
    """What is claimed about a model.

    `parameters` are the names that must not move, `trainable` those that must; `buffers` must not move
    either. (A name in neither required no gradient before, or is another name of a frozen parameter.)
    `modules` are all modules of the frozen part, `norms` those among them that normalise by batch
    statistics or update a state of their own in train mode, unless kept in eval mode. `prefix` holds
    the outermost modules of the frozen stages, in the order in which they run (empty without `at`).
    `observed`: no options were given, and the claim is what the model itself shows.
    """

    parameters: tuple[str, ...]
    trainable: tuple[str, ...]
    buffers: tuple[str, ...]
    modules: tuple[str, ...]
    norms: tuple[str, ...]
    norm: str = "freeze"
    prefix: tuple[str, ...] = ()
    stages: int | None = None
    observed: bool = False
    backbone: Backbone | None = None

    @property
    def whole(self) -> bool:
        """Whether all of the prefix is frozen: with norm="eval" the affine parameters still train."""
        frozen = set(self.parameters)
        stages = self.backbone.stages[: self.stages] if self.backbone else ()
        return all(name in frozen for stage in stages for name in stage.parameters)


def plan(
    model: nn.Module,
    backbone: Backbone | None = None,
    at: int | None = None,
    scheme: str = "maskrcnn",
    patterns: Sequence[str] = (),
    norm: str = "freeze",
) -> Plan:
    """Read the options. Without `at` and `patterns` the claim is what the model shows already:
    whatever has requires_grad=False is frozen. Raises InspectError for an N outside the stages, a
    pattern that matches nothing, and a model in which nothing is frozen."""
    if not isinstance(norm, str) or norm not in NORMS:
        raise InspectError(
            f"no norm mode is called {norm!r}",
            nearest(str(norm), NORMS, f"use one of: {', '.join(NORMS)}"),
        )
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    buffers = [name for name, _ in model.named_buffers(remove_duplicate=False)]
    chosen = set(select([*names, *buffers], patterns, "parameter", "patterns")) if patterns else set()
    prefix: tuple[str, ...] = ()
    count = None
    if at is not None:
        assert backbone is not None
        count = frozen_stages(at, scheme, len(backbone.stages), swin(model))
        stages = backbone.stages[:count]
        chosen |= {name for stage in stages for name in stage.parameters}
        prefix = tuple(path for stage in stages for path in stage.modules)
    observed = at is None and not patterns
    if observed:
        if norm != "freeze":
            message = f'`norm="{norm}"` says how to freeze, but nothing is to be frozen'
            raise InspectError(message, "give `at=N` or `patterns=`")
        chosen = _frozen_already(model)
    made = _complete(model, chosen, prefix, names, buffers)
    made = replace(made, norm=norm, prefix=prefix, stages=count, backbone=backbone, observed=observed)
    return _with_trainable_affine(model, made) if norm == "eval" else made


def _frozen_already(model: nn.Module) -> set[str]:
    named = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    if not frozen:
        raise InspectError(
            "nothing is frozen in this model", 'say what to freeze: `at=N`, or `patterns=["layer1.*"]`'
        )
    return frozen


def _complete(
    model: nn.Module, chosen: set[str], prefix: Sequence[str], names: list[str], buffers: list[str]
) -> Plan:
    modules = _frozen_modules(model, chosen, prefix)
    inside = set(modules)
    tensors = dict(model.named_parameters(remove_duplicate=False))
    frozen = {id(tensors[name]) for name in names if name in chosen}  # whatever other names they have
    return Plan(
        parameters=tuple(name for name in names if name in chosen),
        trainable=tuple(n for n in names if id(tensors[n]) not in frozen and tensors[n].requires_grad),
        buffers=tuple(name for name in buffers if name in chosen or name.rpartition(".")[0] in inside),
        modules=modules,
        norms=_norms(model, modules, chosen.intersection(buffers)),
    )


def _norms(model: nn.Module, modules: Sequence[str], buffers: set[str]) -> tuple[str, ...]:
    """Each module once that changes by itself: in the frozen part, or the owner of a frozen buffer."""
    owners = {name.rpartition(".")[0] for name in buffers}
    norms: dict[int, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if (path in modules or path in owners) and moves_by_itself(module):
            norms.setdefault(id(module), path)
    return tuple(norms.values())


def _frozen_modules(model: nn.Module, chosen: set[str], prefix: Sequence[str]) -> tuple[str, ...]:
    """Modules inside the frozen stages, and those with all of their parameters chosen (without
    parameters: all of their buffers), with everything inside them."""
    frozen: list[str] = []
    for path, module in model.named_modules(remove_duplicate=False):
        held = list(module.named_parameters(remove_duplicate=False)) or list(module.named_buffers())
        own = [f"{path}.{name}".lstrip(".") for name, _ in held]
        if (own and chosen.issuperset(own)) or inside(path, prefix) or inside(path, frozen):
            frozen.append(path)
    return tuple(frozen)


def moves_by_itself(module: nn.Module) -> bool:
    """Whether the batch changes the module's state or output in train mode: batch norms and the like,
    and the power iteration of spectral_norm in both of its forms."""
    if isinstance(module, (NormBase, _torch.SpectralNorm)):
        return True
    if any(isinstance(hook, SpectralNorm) for hook in _torch.pre_hooks_of(module).values()):
        return True
    return _torch.buffers_of(module).get("running_mean") is not None and reads_training(type(module))


def _with_trainable_affine(model: nn.Module, made: Plan) -> Plan:
    """norm="eval": the statistics stay fixed, weight and bias of the normalisation train."""
    norms = [path for path in made.norms if isinstance(model.get_submodule(path), NormBase)]
    free = {name for name in made.parameters if name.rpartition(".")[0] in norms}
    tensors = dict(model.named_parameters(remove_duplicate=False))
    trainable = {*made.trainable, *(name for name in free if tensors[name].requires_grad)}
    return replace(
        made,
        parameters=tuple(name for name in made.parameters if name not in free),
        trainable=tuple(name for name in tensors if name in trainable),
    )


def swin(model: nn.Module) -> bool:
    """Whether detectron2 would count this model's stages as it does for its Swin."""
    return any("swintransformer" in type(module).__name__.lower() for module in model.modules())
