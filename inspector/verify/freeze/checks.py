"""The checks of a frozen model: each reads what was planned and measured, and returns findings.

A check is one function; its name is the name of its findings. `tests/faults/freeze.py` plants a
fault for each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inspector.report import Finding
from inspector.verify.freeze.evidence import STEPS, Evidence
from inspector.verify.freeze.plan import Plan, inside
from inspector.verify.freeze.probe import Probe, random_modules
from inspector.verify.replica import Change, named_state


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
        by_storage.setdefault(_storage(tensors[name]), []).append(name)
    for name in _others(case):
        for other in by_storage.get(_storage(tensors[name]), []):
            if _overlap(tensors[name], tensors[other]):
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


def _storage(tensor: Tensor) -> object:
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):
        return id(tensor)


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
    undone = [path for path in case.evidence.awake if path in case.evidence.asleep]
    message = "is in eval mode, but model.train() undoes it: pass --norm freeze ({all} of {of})"
    found = _listed("train_mode", undone, message, len(case.plan.norms))
    if found or not case.plan.norms:
        return found
    if case.evidence.awake:
        return [
            Finding("train_mode", "skip", "", "normalisation of the frozen part is in train mode by choice")
        ]
    return [
        _passed("train_mode", f"{len(case.plan.norms)} normalisations stay in eval mode after model.train()")
    ]


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
    """Every trainable parameter moved under both optimizers."""
    if not case.evidence.loss:
        return [Finding("moved", "skip", "", "no output requires grad: nothing can train")]
    still = [name for name in case.plan.trainable if name in case.evidence.still]
    silent = [name for name in still if name not in case.evidence.reached]
    dead = [name for name in still if name in case.evidence.reached]
    count = len(case.plan.trainable)
    found = _listed("moved", silent, "should train but no gradient reached it ({all} of {of})", count)
    found += _listed(
        "moved", dead, "should train but did not move, its gradient is zero ({all} of {of})", count
    )
    if found:
        return found
    decayed = [name for name in case.plan.trainable if name not in case.evidence.alive]
    if not case.evidence.finite:
        return [
            Finding("moved", "warn", "", "the loss is not finite on these inputs: that all moved says little")
        ]
    message = "moved by weight decay alone, its gradient is zero on this batch ({all} of {of})"
    return [
        _passed("moved", f"all {count} trainable parameters moved"),
        *_listed("moved", decayed, message, count, status="warn"),
    ]


def gradients(case: Case) -> list[Finding]:
    """No backward gives a frozen parameter a gradient."""
    touched = [name for name in case.plan.parameters if name in case.evidence.touched]
    message = "is frozen but the backward gave it a gradient ({all} of {of})"
    return _listed("gradients", touched, message, len(case.plan.parameters)) or [
        _passed("gradients", "no frozen parameter got a gradient")
    ]


def batch_independence(case: Case) -> list[Finding]:
    """The frozen part gives a sample the same output alone and inside a batch, in train mode."""
    found = []
    for probe in case.evidence.probes:
        if probe.error or (probe.apart is not None and probe.apart > _tolerance(probe)):
            how = "raises on one sample alone" if probe.error else f"differs by {probe.apart:.2g} (relative)"
            message = f"the frozen part normalises by the batch: its output {how}; {_normaliser(case, probe)}"
            found.append(
                Finding("batch_independence", "fail", probe.path, message, {"relative": probe.apart})
            )
    compared = [probe for probe in case.evidence.probes if probe.apart is not None]
    if found:
        return found
    if not compared:
        random = next((probe.path for probe in case.evidence.probes if probe.random), "")
        if random:
            message = "its output is random in train mode, dropout switched off: samples cannot be compared"
            return [Finding("batch_independence", "skip", random, message)]
        return [_skipped("batch_independence", case)]
    return [
        _passed("batch_independence", "a sample's output of the frozen part is the same alone and in a batch")
    ]


def prefix_output(case: Case) -> list[Finding]:
    """What the frozen part computes is the same before and after training."""
    compared = [probe for probe in case.evidence.probes if probe.drift is not None]
    if not case.plan.whole and case.plan.stages is not None:
        return [
            Finding("prefix_output", "skip", "", "affine parameters of its normalisation train (--norm eval)")
        ]
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
    if not compared:
        return [_skipped("prefix_output", case)]
    return [_passed("prefix_output", "the frozen part computes the same before and after training")]


def prefix_grad(case: Case) -> list[Finding]:
    """The output of the frozen stages does not require grad: no backward runs through them."""
    if not case.plan.stages or not case.plan.whole:
        return []
    found = [
        Finding(
            "prefix_grad",
            "fail",
            probe.path,
            "the output of the frozen stages requires grad: something before or inside them trains",
        )
        for probe in case.evidence.probes
        if probe.through_model and probe.requires_grad
    ]
    return found or [_passed("prefix_grad", "the output of the frozen stages does not require grad")]


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
    randomness,
)


def optimizer_audit(model: nn.Module, plan: Plan, optimizer: torch.optim.Optimizer) -> list[Finding]:
    """A training script's own optimizer: every trainable parameter in a group, once, and no frozen
    one that it could move."""
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    tensors = dict(model.named_parameters(remove_duplicate=False))
    left_out = [name for name in plan.trainable if id(tensors[name]) not in grouped]
    frozen = [name for name in plan.parameters if id(tensors[name]) in grouped]
    live = [name for name in frozen if tensors[name].grad is not None]
    foreign = len(set(grouped) - {id(tensor) for tensor in tensors.values()})
    found = _listed(
        "optimizer",
        left_out,
        "should train but is in no group of the optimizer ({all} of {of})",
        len(plan.trainable),
    )
    found += _listed(
        "optimizer",
        live,
        "is frozen, in the optimizer, and holds a gradient: it will move ({all} of {of})",
        len(frozen),
    )
    if foreign:
        message = (
            f"the optimizer holds {foreign} tensors that are not the model's: it was built on another copy"
        )
        found.append(Finding("optimizer", "fail", "", message))
    if frozen and not live:
        message = "is frozen and in the optimizer: harmless while its gradient is None ({all} of {of})"
        found += _listed("optimizer", frozen, message, len(plan.parameters), status="warn")
    return found or [_passed("optimizer", "the optimizer holds exactly what trains")]


def _moved(case: Case, check: str, names: Sequence[str], why: Callable[[str], str]) -> list[Finding]:
    """One finding for each cause, with everything that moved for it as evidence."""
    causes: dict[str, dict[str, tuple[str, Change]]] = {}
    for optimizer, changes in case.evidence.moved.items():
        for name in names:
            if name in changes:
                causes.setdefault(why(name), {}).setdefault(name, (optimizer, changes[name]))
    found = []
    for cause, entries in causes.items():
        first = next(iter(entries))
        optimizer, entry = entries[first]
        more = f", and {len(entries) - 1} more tensors" if len(entries) > 1 else ""
        message = f"moved in {STEPS} steps of {optimizer} ({entry}){more}: {cause}"
        evidence = {name: {"optimizer": o, **vars(c)} for name, (o, c) in entries.items()}
        found.append(Finding(check, "fail", first, message, evidence))
    return found


def _rested(case: Case, check: str, what: str, names: Sequence[str]) -> Finding:
    tensors = dict(named_state(case.model))
    numel = sum(tensors[name].numel() for name in names)
    steps = " and ".join(f"{STEPS} of {name}" for name in case.evidence.moved)
    return _passed(check, f"{len(names)} {what} ({numel:,} elements) are byte-identical after {steps} steps")


def _why_parameter(name: str) -> str:
    return (
        "it requires grad, is tied to something that trains, holds a stale gradient, or the forward writes it"
    )


def _why_buffer(name: str) -> str:
    last = name.rpartition(".")[2]
    if last in ("running_mean", "running_var", "num_batches_tracked"):
        return "BatchNorm's statistics move in train mode: pass --norm freeze"
    if last in ("_u", "_v") or last.endswith(("_u", "_v")):
        return "spectral_norm's power iteration runs in train mode: pass --norm freeze"
    return "the forward writes it in train mode"


def _normaliser(case: Case, probe: Probe) -> str:
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
    eps = max((torch.finfo(leaf.dtype).eps for leaf in probe.output), default=0.0)
    return max(1e-3, 8 * eps)


def _skipped(check: str, case: Case) -> Finding:
    ran = "one sample is no batch" if case.evidence.probes else "no frozen module ran"
    why = ran if case.plan.parameters else "nothing is frozen"
    return Finding(check, "skip", "", f"nothing to compare: {why}")


def _passed(check: str, message: str) -> Finding:
    return Finding(check, "pass", "", message)


def _listed(check: str, names: Iterable[str], message: str, of: int, status: str = "fail") -> list[Finding]:
    """One finding that names the first and holds the others as evidence."""
    known = list(names)
    if not known:
        return []
    text = message.format(all=len(known), of=of)
    return [Finding(check, status, known[0], text, {"names": known})]
