"""The checks of a frozen model: each reads what was planned and measured, and returns findings.

A check is one function; its name is the name of its findings. `tests/faults/freeze.py` plants a
fault for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.backbones import GIVEN
from inspector.freezing.evidence import Evidence
from inspector.freezing.plan import Plan, inside
from inspector.freezing.probe import Probe, random_modules
from inspector.models.replica import Change, named_state
from inspector.reporting.report import Finding
from inspector.tracing import _torch
from inspector.tracing.storage import memory_id


@dataclass(frozen=True)
class Case:
    """What a check looks at: the live model, the claim, and the record of the training steps."""

    model: nn.Module
    plan: Plan
    evidence: Evidence


Check = Callable[[Case], list[Finding]]


def requires_grad(case: Case) -> list[Finding]:
    """Exactly the planned parameters have requires_grad=False."""
    tensors = dict(case.model.named_parameters(remove_duplicate=False))
    missed = [name for name in case.plan.parameters if tensors[name].requires_grad]
    extra = [name for name in case.plan.trainable if not tensors[name].requires_grad]
    found = _listed(
        "requires_grad",
        missed,
        "should be frozen but still requires grad: {all} of {of}",
        len(case.plan.parameters),
    )
    found += _listed(
        "requires_grad", extra, "should train but is frozen: {all} of {of}", len(case.plan.trainable)
    )
    frozen, free = len(case.plan.parameters), len(case.plan.trainable)
    return found or [_passed("requires_grad", f"{frozen} parameters are frozen, {free} train, as planned")]


def stale_gradient(case: Case) -> list[Finding]:
    """No frozen parameter holds a gradient: SGD with momentum or decay and Adam move what has one,
    even one of zeros. (Read from the live model, before any step.)"""
    tensors = dict(case.model.named_parameters(remove_duplicate=False))
    held = [name for name in case.plan.parameters if tensors[name].grad is not None]
    message = (
        "is frozen but holds a gradient from before, which optimizers apply: set .grad = None ({all} of {of})"
    )
    return _listed("stale_gradient", held, message, len(case.plan.parameters)) or [
        _passed("stale_gradient", "no frozen parameter holds a gradient from before")
    ]


def ties(case: Case) -> list[Finding]:
    """No frozen tensor shares memory with a trainable one."""
    tensors = dict(named_state(case.model))
    frozen = [*case.plan.parameters, *case.plan.buffers]
    shared: list[Finding] = []
    by_storage: dict[object, list[str]] = {}
    for name in frozen:
        by_storage.setdefault(memory_id(tensors[name]), []).append(name)
    for name in _others(case):
        others = by_storage.get(memory_id(tensors[name]), [])
        other = next((n for n in others if _overlap(tensors[name], tensors[n])), None)
        if other is not None:
            shared.append(_tie(name, other, tensors[name] is tensors[other]))
    return shared or [_passed("ties", "no frozen tensor shares memory with a trainable one")]


def _others(case: Case) -> list[str]:
    """Trainable parameters, and other names of the frozen ones."""
    tensors = dict(case.model.named_parameters(remove_duplicate=False))
    frozen = {id(tensors[name]) for name in case.plan.parameters}
    names = {*case.plan.trainable, *(name for name in tensors if id(tensors[name]) in frozen)}
    return [name for name in tensors if name in names.difference(case.plan.parameters)]


def _tie(trainable: str, frozen: str, same: bool) -> Finding:
    if same:
        message = f"is the same parameter as {frozen}, which is frozen: it cannot train"
        return Finding("ties", "warn", trainable, message, {"frozen": frozen})
    message = f"shares its memory with {trainable}, which trains: every step writes through it"
    return Finding("ties", "fail", frozen, message, {"trainable": trainable})


def _overlap(left: Tensor, right: Tensor) -> bool:
    def ends(tensor: Tensor) -> tuple[int, int]:
        strides = zip(tensor.shape, tensor.stride())
        reach = sum(int(size - 1) * abs(int(stride)) for size, stride in strides) + 1 if tensor.numel() else 0
        start = int(tensor.storage_offset()) * tensor.element_size()
        return start, start + reach * tensor.element_size()

    (a, b), (c, d) = ends(left), ends(right)
    return max(a, c) < min(b, d)


def train_mode(case: Case) -> list[Finding]:
    """Normalisations of the frozen part that rest in eval mode still do after `model.train()`."""
    norms, evidence = case.plan.norms, case.evidence
    undone = [path for path in evidence.awake if path in evidence.asleep]
    found = _listed(
        "train_mode", undone, "is in eval mode, but model.train() undoes it ({all} of {of})", len(norms)
    )
    if found or not norms:
        return found
    if evidence.awake and case.plan.norm != "train" and not case.plan.found:
        message = "should rest in eval mode but is in train mode ({all} of {of})"
        return _listed("train_mode", evidence.awake, message, len(norms))
    if evidence.awake:
        return [
            Finding("train_mode", "skip", "", "normalisations of the frozen part were left in train mode")
        ]
    return [_passed("train_mode", f"{len(norms)} normalisations stay in eval mode after model.train()")]


def parameters(case: Case) -> list[Finding]:
    """Frozen parameters are byte-identical after the steps of both optimizers."""
    found = _moved(case, "parameters", case.plan.parameters, _why_parameter)
    return found or [_rested(case, "parameters", "frozen parameters", case.plan.parameters)]


def buffers(case: Case) -> list[Finding]:
    """Buffers of the frozen part are byte-identical after the steps."""
    found = _moved(case, "buffers", case.plan.buffers, _why_buffer)
    if found or not case.plan.buffers:
        return found
    return [_rested(case, "buffers", "buffers of the frozen part", case.plan.buffers)]


def moved(case: Case) -> list[Finding]:
    """Every trainable parameter gets a gradient and moves."""
    evidence, count = case.evidence, len(case.plan.trainable)
    if not count:
        return [Finding("moved", "skip", "", "nothing trains")]
    if not evidence.finite:
        message = "the loss is not finite on these inputs: that parameters moved says little"
        return [Finding("moved", "warn", "", message)]
    silent = [name for name in case.plan.trainable if name in evidence.unreached]
    idle = [name for name in case.plan.trainable if name in evidence.idle - evidence.unreached]
    still = [
        name for name in case.plan.trainable if name in evidence.still - evidence.unreached - evidence.idle
    ]
    found = _listed("moved", silent, "should train but no gradient reached it ({all} of {of})", count)
    found += _listed("moved", still, "should train but did not move ({all} of {of})", count)
    message = "has a gradient of zero on this batch, so that nothing shows that it trains ({all} of {of})"
    noted = _listed("moved", idle, message, count, status="warn")
    if not found:
        found = [_passed("moved", f"all {count - len(idle)} trainable parameters with a gradient moved")]
    return found + noted


def gradients(case: Case) -> list[Finding]:
    """No backward gives a frozen parameter a gradient."""
    touched = [name for name in case.plan.parameters if name in case.evidence.touched]
    message = "is frozen but the backward gave it a gradient ({all} of {of})"
    return _listed("gradients", touched, message, len(case.plan.parameters)) or [
        _passed("gradients", "no frozen parameter got a gradient")
    ]


def batch_independence(case: Case) -> list[Finding]:
    """The frozen part gives a sample the same output alone and inside a batch, in train mode."""
    found, probes = [], case.evidence.probes.found
    for probe in probes:
        if probe.error or (probe.apart is not None and probe.apart > _tolerance(probe)):
            how = "raises on one sample alone" if probe.error else f"differs by {probe.apart:.2g} (relative)"
            message = f"the frozen part normalises by the batch: its output {how}; {_normaliser(case)}"
            found.append(
                Finding("batch_independence", "fail", probe.path, message, {"relative": probe.apart})
            )
    if found:
        return found
    if any(probe.apart is not None for probe in probes):
        message = "a sample's output of the frozen part is the same alone and in a batch"
        return [_passed("batch_independence", message)]
    return [_skipped("batch_independence", case)]


def prefix_output(case: Case) -> list[Finding]:
    """What the frozen part computes is the same before and after training."""
    probes = case.evidence.probes.found
    compared = [probe for probe in probes if probe.drift is not None and probe.whole]
    found = [
        Finding(
            "prefix_output",
            "fail",
            probe.path,
            f"the frozen part computes something else after training: {probe.drift:.2g} (relative)",
            {"relative": probe.drift},
        )
        for probe in compared
        if probe.drift is not None and probe.drift > _tolerance(probe) / 100
    ]
    if found:
        return found
    if compared:
        return [_passed("prefix_output", "the frozen part computes the same before and after training")]
    if any(not probe.whole for probe in probes):
        return [Finding("prefix_output", "skip", "", "some parameters of the frozen part train by choice")]
    return [_skipped("prefix_output", case)]


def prefix_grad(case: Case) -> list[Finding]:
    """The output of the frozen stages does not require grad: no backward runs through them."""
    probes = case.evidence.probes
    if not case.plan.stages or not case.plan.whole or not case.plan.parameters:
        return []
    if not probes.requires_grad:
        return [_passed("prefix_grad", "the output of the frozen stages does not require grad")]
    if not probes.feeding:
        message = (
            "requires grad although nothing before it trains (an input does): the backward runs for nothing"
        )
        return [Finding("prefix_grad", "warn", probes.requires_grad, message)]
    chosen = case.plan.backbone is not None and case.plan.backbone.rule == GIVEN
    message = (
        f"the output of the frozen stages requires grad: {probes.feeding[0]} before or inside them trains"
    )
    status = "warn" if chosen else "fail"
    return [Finding("prefix_grad", status, probes.requires_grad, message, {"names": probes.feeding})]


def hooks(case: Case) -> list[Finding]:
    """A note on gradient hooks: the replica that is trained does not have them."""
    hooked = [
        name
        for name, parameter in case.model.named_parameters()
        if _torch.gradient_hooks_of(parameter) or _torch.accumulation_hooks_of(parameter)
    ]
    message = (
        "has a gradient hook, which the trained copy has not: what it does is not verified ({all} of {of})"
    )
    return _listed(
        "hooks", hooked, message, len(case.plan.parameters) + len(case.plan.trainable), status="warn"
    )


def randomness(case: Case) -> list[Finding]:
    """A note when dropout in the frozen part stays random in train mode; it does not train."""
    paths = {id(module): path for path, module in case.model.named_modules()}
    drops = [paths[id(module)] for module in random_modules(case.model)]
    inner = [path for path in drops if inside(path, case.plan.modules) or inside(path, case.plan.prefix)]
    message = "stays random in train mode, although frozen ({all} dropout or drop-path modules)"
    return _listed("randomness", inner, message, len(drops), status="warn")


CHECKS: tuple[Check, ...] = (
    requires_grad,
    stale_gradient,
    ties,
    train_mode,
    parameters,
    buffers,
    moved,
    gradients,
    batch_independence,
    prefix_output,
    prefix_grad,
    hooks,
    randomness,
)


def optimizer_audit(model: nn.Module, plan: Plan, optimizer: torch.optim.Optimizer) -> list[Finding]:
    """A training script's own optimizer: every trainable parameter in a group, once, with a learning
    rate, and no frozen one that it could move."""
    rates = {id(p): group.get("lr", 1.0) for group in optimizer.param_groups for p in group["params"]}
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    tensors = dict(model.named_parameters(remove_duplicate=False))
    trainable, frozen = plan.trainable, [name for name in plan.parameters if id(tensors[name]) in rates]
    live = [name for name in frozen if tensors[name].grad is not None]
    faults = {
        "should train but is in no group of the optimizer": [
            n for n in trainable if id(tensors[n]) not in rates
        ],
        "should train but its learning rate is 0": [
            n for n in trainable if not rates.get(id(tensors[n]), 1.0)
        ],
        "is in the optimizer more than once": [n for n in tensors if grouped.count(id(tensors[n])) > 1],
        "is frozen, in the optimizer, and holds a gradient: it will move": live,
    }
    found = [
        finding
        for message, names in faults.items()
        for finding in _listed("optimizer", names, message + " ({all} of {of})", len(tensors))
    ]
    foreign = len(set(grouped) - {id(tensor) for tensor in tensors.values()})
    if foreign:
        message = (
            f"the optimizer holds {foreign} tensors that are not the model's: it was built on another copy"
        )
        found.append(Finding("optimizer", "fail", "", message))
    if frozen and not live:
        message = "is frozen and in the optimizer: harmless while its gradient is None ({all} of {of})"
        found += _listed("optimizer", frozen, message, len(plan.parameters), status="warn")
    return found or [_passed("optimizer", "the optimizer holds exactly what trains")]


def _moved(case: Case, check: str, names: Sequence[str], why: Callable[[Case, str], str]) -> list[Finding]:
    """One finding for each cause, with everything that moved for it as evidence."""
    causes: dict[str, dict[str, tuple[str, Change]]] = {}
    for optimizer, changes in case.evidence.moved.items():
        for name in names:
            if name in changes:
                causes.setdefault(why(case, name), {}).setdefault(name, (optimizer, changes[name]))
    found = []
    for cause, entries in causes.items():
        first = next(iter(entries))
        optimizer, entry = entries[first]
        more = f", and {len(entries) - 1} more tensors" if len(entries) > 1 else ""
        message = f"moved in {case.evidence.steps} steps of {optimizer} ({entry}){more}: {cause}"
        evidence = {name: {"optimizer": o, **vars(c)} for name, (o, c) in entries.items()}
        found.append(Finding(check, "fail", first, message, evidence))
    return found


def _rested(case: Case, check: str, what: str, names: Sequence[str]) -> Finding:
    tensors = dict(named_state(case.model))
    numel = sum(tensors[name].numel() for name in names)
    count = case.evidence.steps
    done = " and ".join(f"{count} steps of {name}" for name in case.evidence.moved)
    if not case.plan.trainable:
        done = f"{count * len(case.evidence.moved)} forwards in train mode (nothing trains)"
    return _passed(check, f"{len(names)} {what} ({numel:,} elements) are byte-identical after {done}")


def _why_parameter(case: Case, name: str) -> str:
    return (
        "it requires grad, is tied to something that trains, holds a stale gradient, or the forward writes it"
    )


def _why_buffer(case: Case, name: str) -> str:
    last = name.rpartition(".")[2]
    advice = (
        "pass --norm freeze"
        if case.plan.norm == "train" or case.plan.found
        else "--norm freeze cannot stop it"
    )
    if last in ("running_mean", "running_var", "num_batches_tracked"):
        return f"BatchNorm's statistics move in train mode: {advice}"
    if last in ("_u", "_v") or last.endswith(("_u", "_v")):
        return f"spectral_norm's power iteration runs in train mode: {advice}"
    return "the forward writes it in train mode"


def _normaliser(case: Case) -> str:
    """The likely culprit: a batch norm of the frozen part that uses batch statistics."""
    for path in case.plan.norms:
        module = case.model.get_submodule(path)
        if getattr(module, "running_mean", 0) is None:
            return f"{path} has no running statistics (track_running_stats=False)"
    if case.evidence.awake:
        return f"{case.evidence.awake[0]} is in train mode: pass --norm freeze"
    return "some module of it mixes the samples"


def _tolerance(probe: Probe) -> float:
    """Rounding differs with the batch size; a batch norm is off by a tenth and more."""
    eps = max((torch.finfo(leaf.dtype).eps for leaf in probe.seen.output), default=0.0)
    return max(1e-3, 8 * eps)


def _skipped(check: str, case: Case) -> Finding:
    probes = case.evidence.probes.found
    ran = probes[0].why if probes else "no frozen module ran"
    why = (ran or "it cannot be called by itself") if case.plan.parameters else "nothing is frozen"
    return Finding(check, "skip", probes[0].path if probes else "", f"not compared: {why}")


def _passed(check: str, message: str) -> Finding:
    return Finding(check, "pass", "", message)


def _listed(check: str, names: Iterable[str], message: str, of: int, status: str = "fail") -> list[Finding]:
    """One finding that names the first and holds the others as evidence."""
    known = list(names)
    if not known:
        return []
    text = message.format(all=len(known), of=of)
    return [Finding(check, status, known[0], text, {"names": known})]
