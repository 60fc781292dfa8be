"""What a training script does around the model: its optimizer, and DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from inspector.freezing.checks.case import Case
from inspector.freezing.checks.movement import when
from inspector.freezing.evidence import Own
from inspector.freezing.hidden import hidden
from inspector.reporting.checks import check, failed, listed, passed, skipped, warned
from inspector.reporting.numbers import counted
from inspector.reporting.report import Finding
from inspector.tracing import _torch


@check
def hooks(case: Case) -> Iterator[Finding]:
    """The hooks of the model run on the copy that is trained; one that cannot be carried over warns, and
    fails under `--strict`, with the reason."""
    lost = case.evidence.lost
    for reason in dict.fromkeys(lost.values()):
        names = [name for name, why in lost.items() if why == reason]
        message = f"has a hook that the trained copy lacks, so what it does is not verified: {reason}"
        yield from listed(failed if case.strict else warned, names, f"{message} ({len(names)} of these)")
    hooked = [
        name
        for name, parameter in case.tensors.items()
        if _torch.gradient_hooks_of(parameter) or _torch.accumulation_hooks_of(parameter)
    ]
    if hooked and not lost:
        yield passed(f"the gradient hooks of {len(hooked)} parameters ran on the trained copy")


@check
def optimizer(case: Case) -> Iterator[Finding]:
    """(Python) Your optimizer holds every trainable parameter once, with a learning rate, and no frozen one
    that it could move; its own steps, on a copy, with its hooks, move what trains and nothing else."""
    if case.optimizer is None:
        return
    held = _held(case, case.optimizer)
    steps = list(_stepped(case, case.evidence.own)) if case.evidence.own is not None else []
    findings = [*held, *steps]
    yield from findings
    if not findings:
        yield passed(f"the optimizer holds exactly what trains, and {case.evidence.steps} steps move it")


def _held(case: Case, own: torch.optim.Optimizer) -> Iterator[Finding]:
    """What is in its groups."""
    groups = own.param_groups
    rates = {id(p): group.get("lr", 1.0) for group in groups for p in group["params"]}
    held = [id(p) for group in groups for p in group["params"]]
    tensors, trainable = case.tensors, case.plan.trainable
    frozen = [name for name in case.plan.parameters if id(tensors[name]) in rates]
    live = [name for name in frozen if tensors[name].grad is not None]
    faults = {
        "should train but is in no group of the optimizer": [
            n for n in trainable if id(tensors[n]) not in rates
        ],
        "should train but its learning rate is 0": [
            n for n in trainable if not rates.get(id(tensors[n]), 1.0)
        ],
        "is in the optimizer more than once": [n for n in tensors if held.count(id(tensors[n])) > 1],
        "is frozen, in the optimizer, and holds a gradient: it will move": live,
    }
    for message, names in faults.items():
        yield from listed(failed, names, f"{message} ({len(names)} of {len(tensors)})")
    unregistered = {id(tensor): label for _, label, tensor in hidden(case.model)}
    foreign = set(held) - {id(tensor) for tensor in tensors.values()}
    named = [label for key, label in unregistered.items() if key in foreign]
    message = "is in the optimizer, but the model does not register it: freezing does not reach it"
    yield from listed(warned, named, f"{message} ({len(named)} tensors)")
    if len(foreign) > len(named):
        message = f"the optimizer holds {len(foreign) - len(named)} tensors that are not the model's"
        yield failed(f"{message}: it was built on another copy")
    harmless = frozen if not live else []
    message = "is frozen and in the optimizer: harmless while its gradient is None"
    yield from listed(warned, harmless, f"{message} ({len(harmless)} of {case.count})")


def _stepped(case: Case, own: Own) -> Iterator[Finding]:
    """What its steps did."""
    if own.lost:
        message = f"your {own.name} cannot be copied, so its steps are not verified: {own.lost}"
        yield (failed if case.strict else warned)(message)
    elif own.error:
        yield failed(f"a step of your {own.name} raises on a copy of the model: {own.error}")
    ours = {name for changes in case.evidence.moved.values() for name in changes}
    names = [name for name in own.moved if name not in ours]
    if names:
        entry = own.moved[names[0]]
        cause = f"{when(entry, f'your {own.name}')} ({entry.change}): it, or its hook, writes what is frozen"
        yield from listed(failed, names, f"{cause} ({len(names)} tensors)")
    thawed = [name for name in case.plan.parameters if name in own.thawed - case.evidence.thawed]
    message = f"is frozen, but requires grad after {counted(case.evidence.steps, 'step')} of your {own.name}"
    yield from listed(failed, thawed, f"{message} ({len(thawed)} tensors)")
    alive = {name for name in own.still if name not in case.evidence.unreached | case.evidence.idle}
    rates = {id(p): group.get("lr", 1.0) for group in _groups(case) for p in group["params"]}
    still = [name for name in case.plan.trainable if name in alive and rates.get(id(case.tensors[name]))]
    held = [name for name in case.plan.trainable if id(case.tensors[name]) in rates]
    whole = bool(still) and len(still) == len([name for name in held if rates[id(case.tensors[name])]])
    message = f"has a gradient, but {counted(case.evidence.steps, 'step')} of your {own.name} did not move it"
    message += "" if whole else ": is its rate too small for its dtype?"
    yield from listed(failed if whole else warned, still, f"{message} ({len(still)} of {len(held)})")


def _groups(case: Case) -> list[dict[str, Any]]:
    return case.optimizer.param_groups if case.optimizer is not None else []


@check
def ddp(case: Case) -> Iterator[Finding]:
    """Two processes train the model under DistributedDataParallel: no step raises or waits forever, and
    gradients and parameters agree on both.

    Two steps of SGD over gloo on the CPU, with other data on each rank.
    """
    seen = case.parallel
    if seen is None:
        return
    if seen.obstacle:
        yield skipped(f"no DDP step: {seen.obstacle}")
    elif seen.deadlock:
        yield failed(f"a DDP step did not end within {seen.deadlock:.0f} s: deadlock")
    elif any(rank["error"] for rank in seen.ranks):
        yield _raised(case, seen.ranks)
    else:
        agrees = True
        for message, names in (
            ("its gradient differs between the ranks after a DDP backward", seen.ranks[0]["unsynchronised"]),
            ("differs between the ranks after a DDP step", seen.ranks[0]["diverged"]),
            ("is frozen, but moved in a DDP step", seen.ranks[0]["frozen_moved"]),
        ):
            agrees = agrees and not names
            yield from listed(failed, names, f"{message} ({len(names)} tensors); {_CAUSES}")
        if agrees:
            count = len(case.plan.trainable)
            yield passed(f"two processes train under DDP: {count} gradients agree on both")


def _raised(case: Case, ranks: list[dict[str, str]]) -> Finding:
    """The first rank that could not start, else the first that raised. What the data leave out, DDP must be
    told of."""
    for rank, result in enumerate(ranks):
        if result["error"] and result["stage"] == "start":
            return skipped(f"no DDP step: rank {rank} could not start: {result['error']}")
    rank, error = next((rank, result["error"]) for rank, result in enumerate(ranks) if result["error"])
    message = f"a DDP training step raises on rank {rank}: {error[:300]}; {_CAUSES}"
    if case.evidence.unrouted and "find_unused_parameters" in error:
        message = "experts that no token reached stop DDP: wrap with find_unused_parameters=True"
        return warned(message, rank=rank, error=error)
    return failed(message, rank=rank, error=error)


_CAUSES = "freeze and unfreeze before the DDP wrap, and leave no trainable parameter unused"
