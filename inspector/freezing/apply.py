"""Freezing a live model, and undoing it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from inspector.freezing.plan import Plan


class KeepEval:
    """Stands in for a module's own `train`: the module stays in eval mode whatever mode the model is put
    in. An object, not a function, so that deepcopy and pickle bind it to the copy."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        for child in self.module.children():
            child.train(mode)
        return self.module


def kept_in_eval(module: nn.Module) -> bool:
    """Whether a module is kept in eval mode by `KeepEval`."""
    return isinstance(module.__dict__.get("train"), KeepEval)


@dataclass
class Undo:
    """What a model was before it was frozen."""

    parameters: list[tuple[nn.Parameter, bool, Tensor | None]] = field(default_factory=list)
    modules: list[tuple[nn.Module, bool, Any]] = field(default_factory=list)

    def __call__(self) -> None:
        """Put everything back: requires_grad, gradients, training flags, and each `train` method. (A
        gradient that no longer fits its parameter's dtype or shape is dropped.)"""
        for parameter, wanted, grad in self.parameters:
            parameter.requires_grad_(wanted)
            fits = grad is not None and (grad.dtype, grad.shape, grad.device) == (
                parameter.dtype,
                parameter.shape,
                parameter.device,
            )
            parameter.grad = grad if fits else None
        for module, training, train in reversed(self.modules):
            module.__dict__.pop("train", None)
            if train is not None:
                module.__dict__["train"] = train
            module.training = training
        self.parameters, self.modules = [], []


def freeze_parameters(model: nn.Module, plan: Plan, undo: Undo) -> None:
    """requires_grad=False, and no gradient: an optimizer skips only what has none at all."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    for parameter in {id(tensors[name]): tensors[name] for name in plan.parameters}.values():
        undo.parameters.append((parameter, parameter.requires_grad, parameter.grad))
        parameter.requires_grad_(False)
        parameter.grad = None


def keep_norms_in_eval(model: nn.Module, plan: Plan, undo: Undo) -> None:
    """Keep normalisation layers of the frozen part in eval mode, even after `model.train()`."""
    for path in plan.norms:
        module = model.get_submodule(path)
        undo.modules.append((module, module.training, module.__dict__.get("train")))
        module.training = False  # not eval(): its children are not ours
        module.__dict__["train"] = KeepEval(module)


def apply(model: nn.Module, plan: Plan) -> Undo:
    """Freeze the live model as planned; call the result to undo it."""
    undo = Undo()
    freeze_parameters(model, plan, undo)
    if plan.norm != "train":
        keep_norms_in_eval(model, plan, undo)
    return undo
