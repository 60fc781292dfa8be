"""The training steps of the verification: an unforgiving loop, its inputs, and who gets a gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from inspector.freezing.batch import copied
from inspector.freezing.plan import Plan
from inspector.tracing import _torch
from inspector.tracing._torch import tree_map
from inspector.tracing.capture import differentiable
from inspector.tracing.subclass import parts
from inspector.tracing.values import floats

SMALL = 5_000_000
"""Parameters up to which a model takes `STEPS` steps by default."""
STEPS = 8
FEW_STEPS = 2
"""Of larger models. A residual branch whose last layer starts at zero passes no gradient in the first step;
in the second it does."""
LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.1
"""Together they move every weight that is in an optimizer by 1%, more than bfloat16 rounds away."""
GENTLE = 100.0
"""After `FEW_STEPS` the rate is divided by this and the decay multiplied: all that can move has moved, and
AdamW at 0.1 makes a network without norms overflow."""
CLIP = 1.0
"""Norm that gradients are clipped to: the steps must not blow up an untrained model."""

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
}


@dataclass(frozen=True)
class Job:
    """What is to be trained: the original, the claim, a batch of two or more samples, and for how long."""

    model: nn.Module
    plan: Plan
    args: Any
    kwargs: Any
    seed: int
    steps: int

    @property
    def before(self) -> int:
        """Training steps before the eval phase; the others come after it."""
        return self.steps - self.steps // 2

    def outputs(self, model: nn.Module) -> Any:
        """One forward on tensors of its own: a model may change its input in place."""
        args, kwargs = copied((self.args, self.kwargs))
        return model(*args, **kwargs)


def default_steps(model: nn.Module) -> int:
    """How many steps of each optimizer are taken where nobody says."""
    return STEPS if sum(parameter.numel() for parameter in model.parameters()) <= SMALL else FEW_STEPS


class Gradients:
    """Which parameters of one copy get a gradient while the context lasts, seen where it arrives: a hook of
    the model's own may take it away afterwards. Of the trainable names `reached` got one, `alive` one that
    is not zero, and `raw` one that was not zero before the parameter's own hooks; `touched` are frozen names
    with one."""

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.reached: set[str] = set()
        self.alive: set[str] = set()
        self.raw: set[str] = set()
        self.touched: set[str] = set()
        self.named: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
        self.plan = plan
        self.held = {name for name in plan.parameters if self.named[name].grad is not None}
        self.hooks: list[RemovableHandle] = []

    def __enter__(self) -> Gradients:
        for name in self.plan.trainable:
            if self.named[name].requires_grad:
                self._watch(name, self.named[name])
        return self

    def __exit__(self, *error: object) -> None:
        """A parameter and a hook that holds it would keep each other, and the whole copy, alive."""
        for hook in self.hooks:
            hook.remove()

    def _watch(self, name: str, parameter: Tensor) -> None:
        def arrived(grad: Tensor) -> None:
            self.reached.add(name)
            if name not in self.alive and nonzero(grad):
                self.alive.add(name)

        def raw(grad: Tensor) -> None:
            if name not in self.raw and nonzero(grad):
                self.raw.add(name)

        hooks = _torch.gradient_hooks_of(parameter)
        if hooks:  # ours in front of the model's own
            own = dict(hooks)
            hooks.clear()
            self.hooks.append(parameter.register_hook(raw))
            hooks.update(own)
        self.hooks.append(parameter.register_hook(arrived))

    def note(self) -> None:
        """Read the gradients after a backward."""
        for name in self.plan.trainable:
            grad = self.named[name].grad
            if grad is not None and name not in self.alive and nonzero(grad):
                self.reached.add(name)
                self.alive.add(name)
        self.touched |= {name for name in self.plan.parameters if self._touched(name)}

    def _touched(self, name: str) -> bool:
        """Whether the backward gave a gradient: one that was there before is another check's business."""
        grad = self.named[name].grad
        return grad is not None and (name not in self.held or nonzero(grad))


def nonzero(tensor: Tensor) -> bool:
    """Whether some element is not zero; of a sparse tensor, some value."""
    return any(bool(part.any()) for part in parts(tensor) if part.is_floating_point() or part.is_complex())


def train(
    job: Job, model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, gradients: Gradients
) -> bool:
    """An unforgiving training loop in train mode: gradients are set to zero and not to None. Where nothing
    trains, there are forwards only. Whether the loss was finite in the first steps."""
    finite = True
    for step in steps:
        if step == FEW_STEPS:
            _calm_down(optimizer)
        optimizer.zero_grad(set_to_none=False)
        outputs = job.outputs(model)
        loss = objective(outputs, step)
        if loss is not None:
            loss.backward()
            finite &= step >= FEW_STEPS or bool(torch.isfinite(loss))
        elif job.plan.trainable and not floats(outputs):
            raise NothingToTrainOn
        gradients.note()
        _densify(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    return finite


class NothingToTrainOn(Exception):
    """The model returns no tensor that a loss could be made of."""


def _calm_down(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] /= GENTLE
        group["weight_decay"] *= GENTLE


def _densify(model: nn.Module) -> None:
    """Our optimizers decay weights, which sparse gradients (of embeddings) do not allow."""
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            parameter.grad = parameter.grad.to_dense()


def own_steps(job: Job, model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    """The steps of a training script's optimizer, as the plainest script takes them."""
    for step in steps:

        def closure(step: int = step) -> Tensor:
            optimizer.zero_grad()
            loss = objective(job.outputs(model), step)
            if loss is None:
                return torch.zeros(())
            loss.backward()
            return loss.detach()

        if _wants_closure(optimizer):
            optimizer.step(closure)  # type: ignore[arg-type]
        else:
            closure()
            optimizer.step()


def _wants_closure(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step evaluates the model by itself, as LBFGS does: its closure has no default."""
    closure = signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is Parameter.empty


def copied_optimizer(optimizer: torch.optim.Optimizer, carrier: Any) -> torch.optim.Optimizer:
    """A script's optimizer on a copy of the model: its groups, state, defaults and hooks, on the copy's
    parameters. `copy.deepcopy` would drop the hooks and what a subclass adds. Raises what copying does."""
    twin = object.__new__(type(optimizer))
    carrier.memo[id(optimizer)] = twin
    for name, value in vars(optimizer).items():
        twin.__dict__[name] = carrier.copied(value)
    carrier.fill()
    for registry in vars(twin).values():
        for hook in registry.values() if isinstance(registry, dict) else ():
            if id(hook) in carrier.spoiled:
                raise RuntimeError(carrier.spoiled[id(hook)])
    return twin


def objective(outputs: Any, seed: int) -> Tensor | None:
    """A scalar that depends on every element of every output: the model's own loss, or the mean of
    the outputs under random weights (a plain sum of a softmax has no gradient). None without one."""
    roots = differentiable(outputs)
    if not roots:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([_projected(root, generator) for root in roots]).sum()


def _projected(root: Tensor, generator: torch.Generator) -> Tensor:
    root = torch.view_as_real(root) if root.is_complex() else root
    if root.numel() == 1:
        return root.float().sum()
    weights = torch.randn(root.shape, generator=generator).to(root.device)
    return (root.float() * weights).mean()


def shaken(inputs: Any, seed: int) -> Any:
    """Other data of the same form: noise on images, the samples' tokens in another order."""
    generator = torch.Generator().manual_seed(seed)

    def other(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() < 2:
            return copied(value)
        if value.is_floating_point() and value.dim() > 2:
            return value.detach() + torch.randn(value.shape, generator=generator).to(value)
        order = torch.randperm(value.shape[1], generator=generator).to(value.device)
        return value.detach()[:, order] if value.dim() == 2 else copied(value)

    return tree_map(other, inputs)
