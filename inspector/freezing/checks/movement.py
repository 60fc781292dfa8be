"""What real training steps moved, and what they did not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from inspector.freezing.checks.case import Case
from inspector.models.replica import Change, named_state
from inspector.reporting.checks import check, failed, listed, passed, skipped, warned
from inspector.reporting.report import Finding


@check
def parameters(case: Case) -> Iterator[Finding]:
    """Frozen parameters are byte-identical after real training steps of SGD (with momentum and weight decay)
    and of AdamW.

    Two steps each on a copy of the model, with every parameter in the optimizer and gradients set to zero
    rather than None.
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
    """Every trainable parameter gets a gradient and moves.

    What random draws or the data leave out gets twelve more backward passes on other data.
    """
    evidence, trainable = case.evidence, case.plan.trainable
    if not trainable:
        yield skipped("nothing trains")
        return
    if not evidence.finite:
        yield warned("the loss is not finite on these inputs, so what moved proves little")
        return
    of = f"of {len(trainable)})"
    unreached = [name for name in trainable if name in evidence.unreached]
    idle = [name for name in trainable if name in evidence.idle - evidence.unreached]
    still = [name for name in trainable if name in evidence.still - evidence.unreached - evidence.idle]
    yield from listed(failed, unreached, f"should train but no gradient reached it ({len(unreached)} {of}")
    yield from listed(failed, still, f"should train but did not move ({len(still)} {of}")
    if not unreached and not still:
        yield passed(f"all {len(trainable) - len(idle)} trainable parameters with a gradient moved")
    message = f"its gradient is zero on this batch, so nothing shows that it trains ({len(idle)} {of}"
    yield from listed(warned, idle, message)


@check
def gradients(case: Case) -> Iterator[Finding]:
    """The backward pass gives no frozen parameter a gradient."""
    touched = [name for name in case.plan.parameters if name in case.evidence.touched]
    message = f"is frozen but the backward gave it a gradient ({len(touched)} of {case.count})"
    yield from listed(failed, touched, message)
    if not touched:
        yield passed("no frozen parameter got a gradient")


def _moved(case: Case, names: Sequence[str], why: Callable[[Case, str], str]) -> list[Finding]:
    """One finding for each cause, with everything that moved for it as evidence."""
    causes: dict[str, dict[str, tuple[str, Change]]] = {}
    for optimizer, changes in case.evidence.moved.items():
        for name in names:
            if name in changes:
                causes.setdefault(why(case, name), {}).setdefault(name, (optimizer, changes[name]))
    return [_because(case, cause, entries) for cause, entries in causes.items()]


def _because(case: Case, cause: str, entries: dict[str, tuple[str, Change]]) -> Finding:
    first, (optimizer, change) = next(iter(entries.items()))
    more = f", and {len(entries) - 1} more tensors" if len(entries) > 1 else ""
    message = f"moved in {case.evidence.steps} steps of {optimizer} ({change}){more}: {cause}"
    evidence = {name: {"optimizer": o, **vars(c)} for name, (o, c) in entries.items()}
    return failed(message, first, **evidence)


def _unmoved(case: Case, what: str, names: Sequence[str]) -> Finding:
    tensors = dict(named_state(case.model))
    numel = sum(tensors[name].numel() for name in names)
    count = case.evidence.steps
    done = " and ".join(f"{count} steps of {name}" for name in case.evidence.moved)
    if not case.plan.trainable:
        done = f"{count * len(case.evidence.moved)} forwards in train mode (nothing trains)"
    return passed(f"{len(names)} {what} ({numel:,} elements) are byte-identical after {done}")


def _why_parameter(case: Case, name: str) -> str:
    return (
        "it requires grad, is tied to something that trains, holds a stale gradient, or the forward writes it"
    )


def _why_buffer(case: Case, name: str) -> str:
    last = name.rpartition(".")[2]
    unstopped = case.plan.norm == "train" or case.plan.observed
    advice = "pass --norm freeze" if unstopped else "--norm freeze cannot stop it"
    if last in ("running_mean", "running_var", "num_batches_tracked"):
        return f"BatchNorm's statistics move in train mode: {advice}"
    if last.endswith(("_u", "_v")):
        return f"spectral_norm's power iteration runs in train mode: {advice}"
    return "the forward writes it in train mode"
