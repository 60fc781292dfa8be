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
from torch.utils._pytree import tree_leaves

from inspector.errors import InspectError
from inspector.models.inputs import first_line
from inspector.trace.capture import differentiable
from inspector.trace.capture.isolate import random_state, seed_all
from inspector.verify.freeze.plan import Plan
from inspector.verify.freeze.probe import Probe, probe
from inspector.verify.replica import Change, change, named_state, replica, reset, same

STEPS = 2
"""Steps of each optimizer. A residual branch whose last layer starts at zero passes no gradient in
the first step; in the second it does."""
LEARNING_RATE = 0.1
WEIGHT_DECAY = 0.1
"""Together they move every weight that is in an optimizer by 1%, more than bfloat16 rounds away."""
CLIP = 1.0
"""Norm to which gradients are clipped: the steps must not blow up an untrained model."""

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY),
    "AdamW": lambda params: torch.optim.AdamW(params, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY),
}


@dataclass
class Evidence:
    """`moved[optimizer][name]` is how a frozen tensor changed over the steps (those that did), `still`
    holds the trainable names that did not under some optimizer. `reached` are the trainable names that
    had a gradient after a backward, `alive` those whose gradient was not all zero, `touched` the frozen
    names that had one. `awake` are the frozen norms in train mode after `model.train()`, `asleep` those
    that were in eval mode before. `probes` compare what the frozen part computes. `loss` says that there
    was one to train on, `finite` that it was a number.
    """

    original: nn.Module
    awake: list[str] = field(default_factory=list)
    asleep: list[str] = field(default_factory=list)
    moved: dict[str, dict[str, Change]] = field(default_factory=dict)
    still: set[str] = field(default_factory=set)
    reached: set[str] = field(default_factory=set)
    alive: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    probes: list[Probe] = field(default_factory=list)
    loss: bool = True
    finite: bool = True


def gather(model: nn.Module, plan: Plan, args: Any, kwargs: Any, seed: int) -> Evidence:
    """Train a replica of `model` (on its own device) and record what moves. `args` and `kwargs` hold
    a batch of at least 2 samples. Raises InspectError when the model cannot take a training step."""
    found = Evidence(model)
    with random_state(), _explained(args, kwargs):
        copied = replica(model)
        found.asleep = [path for path in plan.norms if not copied.get_submodule(path).training]
        copied.train()
        found.awake = [path for path in plan.norms if copied.get_submodule(path).training]
        found.probes = probe(copied, plan, args, kwargs, seed)
        for name, make in OPTIMIZERS.items():
            reset(copied, model)
            seed_all(seed)
            _train(copied, plan, make, args, kwargs, found)
            found.moved[name] = _changes(model, copied, (*plan.parameters, *plan.buffers))
            found.still |= _unmoved(model, copied, plan.trainable)
            for entry in found.probes:
                entry.again(copied, seed)
    return found


@contextmanager
def _explained(args: Any, kwargs: Any) -> Iterator[None]:
    try:
        yield
    except InspectError:
        raise
    except Exception as error:
        shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        raise InspectError(
            f"a training step of the verification raised on {', '.join(shapes)}:"
            f" {type(error).__name__}: {first_line(error)}",
            "give inputs of at least two samples that it trains on with --input, or use --no-verify",
        ) from error


def _train(
    model: nn.Module,
    plan: Plan,
    make: Callable[[Any], torch.optim.Optimizer],
    args: Any,
    kwargs: Any,
    found: Evidence,
) -> None:
    """A training loop that forgives nothing: all parameters are in the optimizer, gradients are set
    to zero and not to None."""
    model.train()
    optimizer = make(list(model.parameters()))
    named: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    held = {name for name in plan.parameters if named[name].grad is not None}
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=False)
        loss = objective(model(*args, **kwargs), step)
        if loss is None:
            found.loss = False
            continue
        loss.backward()
        found.finite &= bool(torch.isfinite(loss))
        reached = {name for name in plan.trainable if named[name].grad is not None}
        found.alive |= {name for name in reached - found.alive if bool(named[name].grad.any())}
        found.reached |= reached
        found.touched |= {name for name in plan.parameters if _touched(named[name], name in held)}
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()


def _touched(parameter: Tensor, held_before: bool) -> bool:
    """Whether the backward gave a gradient: one that was there before is the business of another check."""
    grad = parameter.grad
    return grad is not None and (not held_before or bool(grad.any()))


def objective(outputs: Any, seed: int) -> Tensor | None:
    """A scalar that depends on every element of every output: the model's own loss, or the mean of
    the outputs under random weights (a plain sum of a softmax has no gradient). None without one."""
    roots = differentiable(outputs)
    if not roots:
        return None
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([_projected(root, generator) for root in roots]).sum()


def _projected(root: Tensor, generator: torch.Generator) -> Tensor:
    if root.numel() == 1:
        return root.float().sum()
    weights = torch.randn(root.shape, generator=generator).to(root.device)
    return (root.float() * weights).mean()


def _changes(original: nn.Module, trained: nn.Module, names: Iterable[str]) -> dict[str, Change]:
    before, after = dict(named_state(original)), dict(named_state(trained))
    changes = {name: change(before[name], after[name]) for name in names}
    return {name: entry for name, entry in changes.items() if entry is not None}


def _unmoved(original: nn.Module, trained: nn.Module, names: Iterable[str]) -> set[str]:
    before, after = dict(named_state(original)), dict(named_state(trained))
    return {name for name in names if same(before[name], after[name])}
