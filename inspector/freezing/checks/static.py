"""What the model shows before any training step."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.freezing.checks.case import Case
from inspector.freezing.hidden import frozen_owner
from inspector.models.replica import named_state
from inspector.reporting.checks import check, failed, listed, passed, skipped, warned
from inspector.reporting.numbers import counted
from inspector.reporting.report import Finding


@check
def requires_grad(case: Case) -> Iterator[Finding]:
    """Exactly the planned parameters have `requires_grad=False`, bare ones such as `cls_token` included, and
    keep it while the model trains."""
    frozen, trainable = case.plan.parameters, case.plan.trainable
    missed = [name for name in frozen if case.tensors[name].requires_grad]
    extra = [name for name in trainable if not case.tensors[name].requires_grad]
    counts = f"{len(missed)} of {len(frozen)}"
    yield from listed(failed, missed, f"should be frozen but still requires grad: {counts}")
    yield from listed(failed, extra, f"should train but is frozen: {len(extra)} of {len(trainable)}")
    thawed = [name for name in frozen if name in case.evidence.thawed]
    message = f"is frozen, but requires grad after {case.evidence.steps} training steps"
    yield from listed(failed, thawed, f"{message}: {len(thawed)} of {len(frozen)}")
    if not missed and not extra and not thawed:
        planned = {id(case.tensors[name]) for name in (*frozen, *trainable)}
        before = {id(tensor) for tensor in case.tensors.values()} - planned
        more = f"; {len(before)} more were frozen before, and are not watched" if before else ""
        held = f"{counted(len(frozen), 'parameter')} {'is' if len(frozen) == 1 else 'are'} frozen"
        yield passed(f"{held}, {len(trainable)} train, as planned{more}")


@check
def stale_gradient(case: Case) -> Iterator[Finding]:
    """No frozen parameter still holds a gradient: SGD with momentum or weight decay, and Adam, move whatever
    has one, even one of zeros.

    Read from the live model, before any step.
    """
    held = [name for name in case.plan.parameters if case.tensors[name].grad is not None]
    message = "is frozen but holds a gradient from before, which optimizers apply: set .grad = None"
    yield from listed(failed, held, f"{message} ({len(held)} of {case.count})")
    if not held:
        yield passed("no frozen parameter holds a gradient from before")


@check
def ties(case: Case) -> Iterator[Finding]:
    """No frozen tensor shares memory with one that trains, told by their addresses.

    So it is seen through NumPy, DLPack and other storages too. Views of one memory count where they have an
    element in common. Another name of a frozen parameter only warns: it cannot train.
    """
    tensors = dict(named_state(case.model))
    for frozen, name in case.tied.items():
        if tensors[name] is tensors[frozen]:
            message = f"is the same parameter as {frozen}, which is frozen: it cannot train"
            yield warned(message, name, frozen=frozen)
        else:
            message = f"shares its memory with {name}, which trains: every step writes through it"
            yield failed(message, frozen, trainable=name)
    if not case.tied:
        yield passed("no frozen tensor shares memory with a trainable one")


@check
def unregistered(case: Case) -> Iterator[Finding]:
    """No frozen module keeps a tensor that gets a gradient in a list or plain attribute, where freezing does
    not reach it.

    Outside the frozen part it warns: an optimizer of `model.parameters()` does not train it.
    """
    frozen = [label for label, owner in case.evidence.hidden.items() if frozen_owner(owner, case.plan)]
    others = [label for label in case.evidence.hidden if label not in frozen]
    message = "is in the frozen part and gets a gradient, but is not registered: requires_grad stays True"
    yield from listed(failed, frozen, f"{message} ({len(frozen)} tensors)")
    message = "gets a gradient, but is not registered: model.parameters() and state_dict() lack it"
    yield from listed(warned, others, f"{message} ({len(others)} tensors)")
    if not frozen and not others:
        yield passed("every tensor that gets a gradient is registered")


@check
def train_mode(case: Case) -> Iterator[Finding]:
    """Normalisation layers of the frozen part that were put in eval mode stay there after
    `model.train()`, also when that follows an eval phase."""
    norms, evidence = case.plan.norms, case.evidence
    undone = [path for path in evidence.awake if path in evidence.asleep]
    awake = evidence.awake
    if undone:
        message = f"is in eval mode, but model.train() undoes it ({len(undone)} of {len(norms)})"
        yield from listed(failed, undone, message)
    elif awake and case.plan.norm != "train" and not case.plan.observed:
        message = f"should stay in eval mode but is in train mode ({len(awake)} of {len(norms)})"
        yield from listed(failed, awake, message)
    elif awake:
        yield skipped("normalisation layers of the frozen part were left in train mode")
    elif norms:
        yield passed(f"{len(norms)} normalisation layers stay in eval mode after model.train()")
