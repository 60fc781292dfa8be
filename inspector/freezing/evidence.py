"""What is measured on a replica: real training steps, and what the frozen part computes.

The checks read this record; nothing here judges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inspector.core.errors import InspectError, first_line
from inspector.freezing.hidden import hidden
from inspector.freezing.plan import Plan
from inspector.freezing.probe import Probes, probe
from inspector.freezing.routing import unrouted
from inspector.freezing.training import (
    OPTIMIZERS,
    Gradients,
    Job,
    NothingToTrainOn,
    copied_optimizer,
    default_steps,
    objective,
    own_steps,
    shaken,
    train,
)
from inspector.models.replica import Change, change, duplicate, named_state, replica, same, untouched
from inspector.tracing._torch import tree_leaves
from inspector.tracing.capture.isolate import random_state, seed_all

PATIENCE = 12
"""More backward passes on other data before a parameter counts as getting no gradient."""


@dataclass(frozen=True)
class Moved:
    """How a tensor changed, and when it was first seen: after `steps` training steps, or `evaluated`, in the
    eval phase that follows them."""

    change: Change
    steps: int
    evaluated: bool = False


@dataclass
class Own:
    """What the steps of the script's own optimizer did to a copy: how frozen tensors `moved`, which of its
    trainable ones stayed `still`, which frozen ones were `thawed`. `lost` says why it could not be copied,
    `error` what its step raised."""

    name: str
    moved: dict[str, Moved] = field(default_factory=dict)
    still: set[str] = field(default_factory=set)
    thawed: set[str] = field(default_factory=set)
    lost: str = ""
    error: str = ""


@dataclass
class Evidence:
    """`moved[optimizer][name]` is how a frozen tensor changed over the steps (if it did); `still`
    holds the trainable names that moved under no optimizer, `unreached` those that no backward gave a
    gradient (`unrouted` those of them that belong to experts without a token), `idle` those whose gradient
    was zero throughout (`silenced` those of them whose own hooks made it zero); `touched` the frozen names
    that had a gradient, `thawed` those that require grad after the steps and did not before. `awake` are the
    frozen norms in train mode after `model.train()`, `asleep` those that were in eval mode before. `steps` is
    how many each optimizer took, `finite` that the loss was a number, `no_eval` what the eval phase raised.
    `lost` names what hangs on the model and is missing on the copy, `hidden` the tensors that got a gradient
    although nothing registers them, `own` is about the script's optimizer.
    """

    probes: Probes
    awake: list[str] = field(default_factory=list)
    asleep: list[str] = field(default_factory=list)
    moved: dict[str, dict[str, Moved]] = field(default_factory=dict)
    still: set[str] = field(default_factory=set)
    unreached: set[str] = field(default_factory=set)
    unrouted: set[str] = field(default_factory=set)
    idle: set[str] = field(default_factory=set)
    silenced: set[str] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)
    thawed: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    own: Own | None = None
    steps: int = 0
    finite: bool = True
    no_eval: str = ""


def gather(
    model: nn.Module,
    plan: Plan,
    args: Any,
    kwargs: Any,
    seed: int,
    steps: int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> Evidence:
    """Train replicas of `model` (on its own device) and record what moves. `args` and `kwargs` hold a
    batch of at least 2 samples. Raises InspectError when the model cannot take a training step, returns
    nothing that could be trained on, or when its copy runs the original."""
    with random_state(), torch.inference_mode(False), torch.enable_grad(), _explained(args, kwargs):
        job = Job(model, plan, args, kwargs, seed, default_steps(model) if steps is None else steps)
        first = duplicate(model)
        with untouched(model):
            evidence = Evidence(Probes(plan, args, kwargs, seed), lost=first.lost, steps=job.steps)
            _observe(job, first.model, evidence)
            del first  # one copy at a time: of a large model, each is gigabytes
            for number, name in enumerate(OPTIMIZERS):
                _optimise(job, replica(model), name, seed + number, evidence)
            _insist(job, evidence)
            if optimizer is not None:
                seed_all(seed)
                evidence.own = _script(job, optimizer)
    return evidence


def _observe(job: Job, twin: nn.Module, evidence: Evidence) -> None:
    """Before any step: modes, and what the frozen part computes."""
    plan = job.plan
    evidence.asleep = [path for path in plan.norms if not twin.get_submodule(path).training]
    twin.train()
    evidence.awake = _awake(twin, plan)
    evidence.probes = probe(twin, plan, job.args, job.kwargs, job.seed)
    evidence.still = evidence.unreached = evidence.idle = set(plan.trainable)
    with _forgiven(evidence):
        evidence.probes.evaluate(twin.eval())


def _awake(model: nn.Module, plan: Plan) -> list[str]:
    return [path for path in plan.norms if model.get_submodule(path).training]


@contextmanager
def _forgiven(evidence: Evidence) -> Iterator[None]:
    """A model that trains need not run in eval mode on the same inputs."""
    try:
        yield
    except Exception as error:
        evidence.no_eval = f"{type(error).__name__}: {first_line(error)}"


@contextmanager
def _explained(args: Any, kwargs: Any) -> Iterator[None]:
    try:
        yield
    except InspectError:
        raise
    except NothingToTrainOn as error:
        raise InspectError(
            "the model's output holds no tensor that requires grad: there is nothing to train on",
            "return tensors that depend on the trainable parameters, or use `verify=False`",
        ) from error
    except (Exception, SystemExit) as error:
        shapes = [str(tuple(leaf.shape)) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        raise InspectError(
            f"a training step of the verification raised on {', '.join(shapes)}:"
            f" {type(error).__name__}: {first_line(error)}",
            'give inputs that it trains on with `inputs="2x3x224x224"`, or use `verify=False`',
        ) from error


def _optimise(job: Job, twin: nn.Module, name: str, seed: int, evidence: Evidence) -> None:
    """Train, eval, train; all parameters are in the optimizer. Compare after each."""
    moved = evidence.moved[name] = {}
    seed_all(seed)
    optimizer = OPTIMIZERS[name](list(twin.parameters()))
    with Gradients(twin, job.plan) as gradients:
        _train(job, twin, optimizer, gradients, moved, evidence)
    evidence.unreached = evidence.unreached - gradients.reached
    evidence.idle = evidence.idle - gradients.alive
    evidence.silenced |= gradients.raw
    evidence.touched |= gradients.touched
    evidence.still = evidence.still & _unmoved(job.model, twin, job.plan.trainable)
    evidence.thawed |= _thawed(job, twin)
    evidence.hidden |= {label: owner for owner, label, tensor in hidden(twin) if tensor.grad is not None}
    evidence.probes.again(twin)


def _train(
    job: Job,
    twin: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradients: Gradients,
    moved: dict[str, Moved],
    evidence: Evidence,
) -> None:
    twin.train()
    evidence.finite &= train(job, twin, optimizer, range(job.before), gradients)
    _compare(job, twin, moved, job.before)
    _evaluate(job, twin, evidence)
    _compare(job, twin, moved, job.before, evaluated=True)
    twin.train()
    evidence.awake = list(dict.fromkeys((*evidence.awake, *_awake(twin, job.plan))))
    train(job, twin, optimizer, range(job.before, job.steps), gradients)
    _compare(job, twin, moved, job.steps)


def _evaluate(job: Job, twin: nn.Module, evidence: Evidence) -> None:
    """What a script does between epochs: a forward in eval mode without gradients, and a checkpoint."""
    twin.eval()
    with _forgiven(evidence), torch.no_grad():
        job.outputs(twin)
        evidence.probes.evaluated(twin)
    with suppress(Exception):
        twin.state_dict()


def _compare(job: Job, twin: nn.Module, moved: dict[str, Moved], steps: int, evaluated: bool = False) -> None:
    names = [name for name in (*job.plan.parameters, *job.plan.buffers) if name not in moved]
    for name, entry in _changes(job.model, twin, names).items():
        moved[name] = Moved(entry, steps, evaluated)


def _insist(job: Job, evidence: Evidence) -> None:
    """What got no gradient may be left out at random (layer drop) or by the data (experts): try more
    backward passes on other data before calling it unreached."""
    if not evidence.unreached:
        return
    twin = replica(job.model)
    twin.train()
    with Gradients(twin, job.plan) as gradients:
        _again(job, twin, gradients, evidence)
    evidence.unrouted = unrouted(job, twin, evidence.unreached)


def _again(job: Job, twin: nn.Module, gradients: Gradients, evidence: Evidence) -> None:
    for attempt in range(PATIENCE):
        if not evidence.unreached:
            return
        seed_all(job.seed + 100 + attempt)
        args, kwargs = shaken((job.args, job.kwargs), attempt)
        loss = objective(twin(*args, **kwargs), attempt)
        if loss is not None:
            loss.backward()
        gradients.note()
        reached = evidence.unreached & gradients.reached
        evidence.unreached = evidence.unreached - reached
        evidence.still = evidence.still - reached
        evidence.idle = evidence.idle - reached


def _script(job: Job, optimizer: torch.optim.Optimizer) -> Own:
    """The steps of the script's own optimizer on a copy: train, eval, train."""
    own, twin = Own(type(optimizer).__name__), duplicate(job.model)
    names = {id(tensor): name for name, tensor in job.model.named_parameters()}
    held = {names.get(id(p), "") for group in optimizer.param_groups for p in group["params"]}
    try:
        copied = copied_optimizer(optimizer, twin.carrier)
    except Exception as error:
        own.lost = f"{type(error).__name__}: {first_line(error)}"
        return own
    model = twin.model.train()
    try:
        own_steps(job, model, copied, range(job.before))
        _compare(job, model, own.moved, job.before)
        _evaluate(job, model.eval(), Evidence(Probes(job.plan, job.args, job.kwargs, job.seed)))
        _compare(job, model, own.moved, job.before, evaluated=True)
        own_steps(job, model.train(), copied, range(job.before, job.steps))
        _compare(job, model, own.moved, job.steps)
    except Exception as error:
        own.error = f"{type(error).__name__}: {first_line(error)}"
        return own
    own.thawed = _thawed(job, model)
    own.still = _unmoved(job.model, model, [name for name in job.plan.trainable if name in held])
    return own


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


def _thawed(job: Job, twin: nn.Module) -> set[str]:
    """Frozen names that require grad on the copy, and not on the original."""
    before, after = dict(named_state(job.model)), dict(named_state(twin))
    names = [name for name in job.plan.parameters if name in after]
    return {name for name in names if after[name].requires_grad and not before[name].requires_grad}


def _unmoved(original: nn.Module, trained: nn.Module, names: Iterable[str]) -> set[str]:
    before, after = dict(named_state(original)), dict(named_state(trained))
    return {name for name in names if name in after and same(before[name], after[name])}
