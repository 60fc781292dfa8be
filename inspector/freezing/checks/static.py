"""What the model shows before any training step."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from inspector.freezing.checks.case import Case
from inspector.models.replica import named_state
from inspector.reporting.checks import check, failed, listed, passed, skipped, warned
from inspector.reporting.report import Finding
from inspector.tracing.storage import memory_id


@check
def requires_grad(case: Case) -> Iterator[Finding]:
    """Exactly the planned parameters have `requires_grad=False`, bare ones such as `cls_token` included."""
    frozen, trainable = case.plan.parameters, case.plan.trainable
    missed = [name for name in frozen if case.tensors[name].requires_grad]
    extra = [name for name in trainable if not case.tensors[name].requires_grad]
    counts = f"{len(missed)} of {len(frozen)}"
    yield from listed(failed, missed, f"should be frozen but still requires grad: {counts}")
    yield from listed(failed, extra, f"should train but is frozen: {len(extra)} of {len(trainable)}")
    if not missed and not extra:
        yield passed(f"{len(frozen)} parameters are frozen, {len(trainable)} train, as planned")


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
    """No frozen tensor shares memory with one that trains.

    Views of one storage count where their elements overlap. Another name of a frozen parameter only warns:
    it cannot train.
    """
    tensors = dict(named_state(case.model))
    by_storage: dict[object, list[str]] = {}
    for name in (*case.plan.parameters, *case.plan.buffers):
        by_storage.setdefault(memory_id(tensors[name]), []).append(name)
    alone = True
    for name in _not_frozen(case):
        neighbours = by_storage.get(memory_id(tensors[name]), [])
        frozen = next((other for other in neighbours if _overlap(tensors[name], tensors[other])), None)
        if frozen is None:
            continue
        alone = False
        if tensors[name] is tensors[frozen]:
            message = f"is the same parameter as {frozen}, which is frozen: it cannot train"
            yield warned(message, name, frozen=frozen)
        else:
            message = f"shares its memory with {name}, which trains: every step writes through it"
            yield failed(message, frozen, trainable=name)
    if alone:
        yield passed("no frozen tensor shares memory with a trainable one")


def _not_frozen(case: Case) -> list[str]:
    """Trainable parameters, and other names of the frozen ones."""
    frozen = {id(case.tensors[name]) for name in case.plan.parameters}
    names = {*case.plan.trainable, *(name for name in case.tensors if id(case.tensors[name]) in frozen)}
    return [name for name in case.tensors if name in names.difference(case.plan.parameters)]


def _overlap(left: Tensor, right: Tensor) -> bool:
    def ends(tensor: Tensor) -> tuple[int, int]:
        strides = zip(tensor.shape, tensor.stride())
        reach = sum(int(size - 1) * abs(int(stride)) for size, stride in strides) + 1 if tensor.numel() else 0
        start = int(tensor.storage_offset()) * tensor.element_size()
        return start, start + reach * tensor.element_size()

    (a, b), (c, d) = ends(left), ends(right)
    return max(a, c) < min(b, d)


@check
def train_mode(case: Case) -> Iterator[Finding]:
    """Normalisation layers of the frozen part that were put in eval mode stay there after `model.train()`."""
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
