"""What real training steps moved, and what they did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from inspector.freezing.checks.case import Case
from inspector.freezing.evidence import Moved
from inspector.models.replica import named_state
from inspector.reporting.checks import check, failed, listed, passed, warned
from inspector.reporting.numbers import counted
from inspector.reporting.report import Finding


@check
def parameters(case: Case) -> Iterator[Finding]:
    """Frozen parameters are byte-identical after real training steps of SGD (with momentum and weight decay)
    and of AdamW, and after an eval phase between them.

    `--steps` each, half of them before the eval phase and half after it, on a copy of the model with its
    hooks, every parameter in the optimizer, and gradients set to zero rather than None.
    """
    names = case.plan.parameters
    yield from _moved(case, names, _why_parameter) or [_unmoved(case, "frozen parameters", names)]


@check
def buffers(case: Case) -> Iterator[Finding]:
    """Buffers of the frozen part, such as running statistics, are byte-identical after the same steps."""
    names = case.plan.buffers
    if names:
        yield from _moved(case, names, _why_buffer) or [_unmoved(case, "buffers of the frozen part", names)]


@check
def moved(case: Case) -> Iterator[Finding]:
    """Every trainable parameter gets a gradient and moves; that nothing trains fails where something should.

    What random draws or the data leave out gets twelve more backward passes on other data; experts that no
    token reached are named in a warning. Without a trainable parameter it warns, or fails where stages or
    patterns leave some to train, or an optimizer is given.
    """
    evidence, trainable = case.evidence, case.plan.trainable
    if not trainable:
        yield _nothing_trains(case)
        return
    if not evidence.finite:
        yield warned("the loss is not finite on these inputs, so what moved proves little")
        return
    of = f"of {len(trainable)})"
    lost = evidence.unreached - evidence.unrouted
    unreached = [name for name in trainable if name in lost]
    unrouted = [name for name in trainable if name in evidence.unrouted]
    silenced = [name for name in trainable if name in evidence.idle & evidence.silenced]
    idle = [name for name in trainable if name in evidence.idle - evidence.unreached - set(silenced)]
    still = [name for name in trainable if name in evidence.still - evidence.unreached - evidence.idle]
    yield from listed(failed, unreached, f"should train but no gradient reached it ({len(unreached)} {of}")
    yield from listed(failed, silenced, f"{_SILENCED} ({len(silenced)} {of}")
    yield from listed(failed, still, f"should train but did not move ({len(still)} {of}")
    if not unreached and not silenced and not still and len(idle) < len(trainable):
        count = len(trainable) - len(idle) - len(unrouted)
        yield passed(f"all {count} trainable parameters with a gradient moved")
    message = f"its gradient is zero on this batch, so nothing shows that it trains ({len(idle)} {of}"
    yield from listed(failed if len(idle) == len(trainable) else warned, idle, message)
    yield from listed(warned, unrouted, f"{_UNROUTED} ({len(unrouted)} {of}")


_SILENCED = "its own gradient hook makes its gradient zero"
_UNROUTED = "belongs to an expert that no token reached, so nothing shows that it trains"


def _nothing_trains(case: Case) -> Finding:
    frozen = {id(case.tensors[name]) for name in case.plan.parameters}
    left = [name for name, tensor in case.tensors.items() if id(tensor) not in frozen]
    if case.optimizer is not None:
        return failed("nothing trains, and there is an optimizer: the model has 0 trainable parameters")
    if left and not case.plan.observed:
        message = f"nothing trains: all that is not to be frozen was frozen before ({len(left)} parameters)"
        return failed(message, left[0], names=left)
    return warned("nothing trains: the model has 0 trainable parameters")


@check
def gradients(case: Case) -> Iterator[Finding]:
    """The backward pass gives no frozen parameter a gradient."""
    touched = [name for name in case.plan.parameters if name in case.evidence.touched]
    message = f"is frozen but the backward gave it a gradient ({len(touched)} of {case.count})"
    yield from listed(failed, touched, message)
    if not touched:
        yield passed("no frozen parameter got a gradient")


def _moved(case: Case, names: Sequence[str], why: Callable[[Case, str, Moved], str]) -> list[Finding]:
    """One finding for each cause, with everything that moved for it as evidence."""
    causes: dict[str, dict[str, tuple[str, Moved]]] = {}
    for optimizer, changes in case.evidence.moved.items():
        for name in names:
            if name in changes:
                cause = why(case, name, changes[name])
                causes.setdefault(cause, {}).setdefault(name, (optimizer, changes[name]))
    return [_because(cause, entries) for cause, entries in causes.items()]


def _because(cause: str, entries: dict[str, tuple[str, Moved]]) -> Finding:
    first, (optimizer, entry) = next(iter(entries.items()))
    more = f", and {len(entries) - 1} more tensors" if len(entries) > 1 else ""
    message = f"{when(entry, optimizer)} ({entry.change}){more}: {cause}"
    evidence = {
        name: {"optimizer": o, "steps": m.steps, "evaluated": m.evaluated, **vars(m.change)}
        for name, (o, m) in entries.items()
    }
    return failed(message, first, **evidence)


def when(entry: Moved, optimizer: str) -> str:
    """How a message says when a tensor moved."""
    if entry.evaluated:
        return f"moved in eval mode, after {counted(entry.steps, 'step')} of {optimizer}"
    return f"moved in {counted(entry.steps, 'step')} of {optimizer}"


def _unmoved(case: Case, what: str, names: Sequence[str]) -> Finding:
    tensors = dict(named_state(case.model))
    numel = sum(tensors[name].numel() for name in names)
    count = case.evidence.steps
    done = " and ".join(f"{counted(count, 'step')} of {name}" for name in case.evidence.moved)
    if not case.plan.trainable:
        done = f"{count * len(case.evidence.moved)} forwards in train mode (nothing trains)"
    error = case.evidence.no_eval
    done += f" (it raises in eval mode: {error})" if error else ", in eval mode too"
    return passed(f"{len(names)} {what} ({numel:,} elements) are byte-identical after {done}")


def _why_parameter(case: Case, name: str, entry: Moved) -> str:
    if entry.evaluated:
        return _EVALUATED
    if case.tensors[name].requires_grad:
        return "it requires grad"
    if case.tensors[name].grad is not None:
        return "it holds a gradient from before"
    if name in case.tied:
        return f"it shares its memory with {case.tied[name]}, which trains"
    if name in case.evidence.touched:
        return "something gives it a gradient in the backward"
    return "a forward, a hook, or train() writes it"


_EVALUATED = "eval(), a forward in eval mode, or state_dict() writes it"


def _why_buffer(case: Case, name: str, entry: Moved) -> str:
    if entry.evaluated:
        return _EVALUATED
    last = name.rpartition(".")[2]
    unstopped = case.plan.norm == "train" or case.plan.observed
    advice = "pass --norm freeze" if unstopped else "--norm freeze cannot stop it"
    if last in ("running_mean", "running_var", "num_batches_tracked"):
        return f"BatchNorm's statistics move in train mode: {advice}"
    if last.endswith(("_u", "_v")):
        return f"spectral_norm's power iteration runs in train mode: {advice}"
    return "the forward writes it in train mode"
