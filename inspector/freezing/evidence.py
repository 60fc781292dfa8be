"""What is measured on a replica: real training steps, and what the frozen part computes.

The checks read this record; nothing here judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError, first_line
from inspector.freezing.batch import copied
from inspector.freezing.plan import Plan
from inspector.freezing.probe import Probes, probe
from inspector.models.replica import Change, change, named_state, replica, same, untouched
from inspector.tracing._torch import tree_leaves, tree_map
from inspector.tracing.capture import differentiable
from inspector.tracing.capture.isolate import random_state, seed_all

STEPS = 2
"""Steps of each optimizer. A residual branch whose last layer starts at zero passes no gradient in
the first step; in the second it does."""
LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.1
"""Together they move every weight that is in an optimizer by 1%, more than bfloat16 rounds away."""
PATIENCE = 12
"""More backward passes on other data before a parameter counts as getting no gradient."""
CLIP = 1.0
"""Norm that gradients are clipped to: the steps must not blow up an untrained model."""

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
}


@dataclass
class Evidence:
    """`moved[optimizer][name]` is how a frozen tensor changed over the steps (if it did); `still`
    holds the trainable names that moved under no optimizer, `unreached` those that no backward gave a
    gradient, `idle` those whose gradient was zero throughout; `touched` the frozen names that had a
    gradient. `awake` are the frozen norms in train mode after `model.train()`, `asleep` those that were
    in eval mode before. `steps` is how many each optimizer took, `finite` that the loss was a number.
    """

    probes: Probes
    awake: list[str] = field(default_factory=list)
    asleep: list[str] = field(default_factory=list)
    moved: dict[str, dict[str, Change]] = field(default_factory=dict)
    still: set[str] = field(default_factory=set)
    unreached: set[str] = field(default_factory=set)
    idle: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    steps: int = 0
    finite: bool = True


def gather(model: nn.Module, plan: Plan, args: Any, kwargs: Any, seed: int) -> Evidence:
    """Train replicas of `model` (on its own device) and record what moves. `args` and `kwargs` hold a
    batch of at least 2 samples. Raises InspectError when the model cannot take a training step, returns
    nothing that could be trained on, or when its copy runs the original."""
    with random_state(), torch.inference_mode(False), torch.enable_grad(), _explained(args, kwargs):
        twin = replica(model)
        with untouched(model):
            evidence = Evidence(Probes(plan, args, kwargs, seed))
            evidence.asleep = [path for path in plan.norms if not twin.get_submodule(path).training]
            twin.train()
            evidence.awake = [path for path in plan.norms if twin.get_submodule(path).training]
            evidence.probes = probe(twin, plan, args, kwargs, seed)
            evidence.still = evidence.unreached = evidence.idle = set(plan.trainable)
            for number, (name, make) in enumerate(OPTIMIZERS.items()):
                twin = replica(model)
                seed_all(seed + number)
                _train(twin, plan, make, args, kwargs, evidence)
                evidence.moved[name] = _changes(model, twin, (*plan.parameters, *plan.buffers))
                evidence.still = evidence.still & _unmoved(model, twin, plan.trainable)
                evidence.probes.again(twin)
            _insist(model, evidence, args, kwargs, seed)
    return evidence


@contextmanager
def _explained(args: Any, kwargs: Any) -> Iterator[None]:
    try:
        yield
    except InspectError:
        raise
    except (Exception, SystemExit) as error:
        shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        raise InspectError(
            f"a training step of the verification raised on {', '.join(shapes)}:"
            f" {type(error).__name__}: {first_line(error)}",
            'give inputs that it trains on with `inputs="2x3x224x224"`, or use `verify=False`',
        ) from error


def _train(
    model: nn.Module,
    plan: Plan,
    make: Callable[[Any], torch.optim.Optimizer],
    args: Any,
    kwargs: Any,
    evidence: Evidence,
) -> None:
    """An unforgiving training loop: all parameters are in the optimizer, gradients are set
    to zero and not to None. Where nothing trains, there are forwards only."""
    model.train()
    optimizer = make(list(model.parameters()))
    named: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    held = {name for name in plan.parameters if named[name].grad is not None}
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        step_args, step_kwargs = copied((args, kwargs))
        loss = objective(model(*step_args, **step_kwargs), step)
        if loss is not None:
            loss.backward()
            evidence.finite &= bool(torch.isfinite(loss))
        elif plan.trainable:
            raise InspectError(
                "the model's output holds no tensor that requires grad: there is nothing to train on",
                "return tensors that depend on the trainable parameters, or use `verify=False`",
            )
        _note(evidence, plan, named, held)
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
    evidence.steps = STEPS


def _note(evidence: Evidence, plan: Plan, named: dict[str, Any], held: set[str]) -> None:
    """Which parameters the backward gave a gradient."""
    grads = {name: named[name].grad for name in plan.trainable}
    evidence.unreached = evidence.unreached - {name for name, grad in grads.items() if grad is not None}
    evidence.idle = evidence.idle - {
        n for n in evidence.idle if grads[n] is not None and bool(grads[n].any())
    }
    evidence.touched |= {name for name in plan.parameters if _touched(named[name], name in held)}


def _touched(parameter: Tensor, held_before: bool) -> bool:
    """Whether the backward gave a gradient: one that was there before is another check's business."""
    grad = parameter.grad
    return grad is not None and (not held_before or bool(grad.any()))


def _insist(model: nn.Module, evidence: Evidence, args: Any, kwargs: Any, seed: int) -> None:
    """What got no gradient may be left out at random (layer drop) or by the data (experts): try more
    backward passes on other data before calling it unreached."""
    if not evidence.unreached:
        return
    twin = replica(model)
    twin.train()
    named: dict[str, Any] = dict(twin.named_parameters(remove_duplicate=False))
    for attempt in range(PATIENCE):
        if not evidence.unreached:
            return
        seed_all(seed + 100 + attempt)
        other_args, other_kwargs = _shaken((args, kwargs), attempt)
        loss = objective(twin(*other_args, **other_kwargs), attempt)
        if loss is not None:
            loss.backward()
        reached = {name for name in evidence.unreached if named[name].grad is not None}
        evidence.unreached = evidence.unreached - reached
        evidence.still = evidence.still - reached
        evidence.idle = evidence.idle - reached


def _shaken(inputs: Any, seed: int) -> Any:
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


def _changes(original: nn.Module, trained: nn.Module, names: Iterable[str]) -> dict[str, Change]:
    """How named tensors moved; one that is gone counts as moved."""
    before, after = dict(named_state(original)), dict(named_state(trained))
    changes = {
        name: change(before[name], after[name])
        if name in after
        else Change(before[name].numel(), before[name].numel(), None)
        for name in names
    }
    return {name: entry for name, entry in changes.items() if entry is not None}


def _unmoved(original: nn.Module, trained: nn.Module, names: Iterable[str]) -> set[str]:
    before, after = dict(named_state(original)), dict(named_state(trained))
    return {name for name in names if name in after and same(before[name], after[name])}
