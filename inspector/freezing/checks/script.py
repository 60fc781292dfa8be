"""What a training script does around the model: its optimizer, and DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.freezing.checks.case import Case
from inspector.reporting.checks import check, failed, listed, passed, skipped, warned
from inspector.reporting.report import Finding


@check
def optimizer(case: Case) -> Iterator[Finding]:
    """(Python) Your optimizer holds every trainable parameter once, with a learning rate, and no frozen one
    that it could move."""
    if case.optimizer is None:
        return
    groups = case.optimizer.param_groups
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
    foreign = len(set(held) - {id(tensor) for tensor in tensors.values()})
    if foreign:
        message = f"the optimizer holds {foreign} tensors that are not the model's"
        yield failed(f"{message}: it was built on another copy")
    harmless = frozen if not live else []
    message = "is frozen and in the optimizer: harmless while its gradient is None"
    yield from listed(warned, harmless, f"{message} ({len(harmless)} of {case.count})")
    if not (foreign or harmless or any(faults.values())):
        yield passed("the optimizer holds exactly what trains")


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
        yield _raised(seen.ranks)
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


def _raised(ranks: list[dict[str, str]]) -> Finding:
    """The first rank that could not start, else the first that raised."""
    for rank, result in enumerate(ranks):
        if result["error"] and result["stage"] == "start":
            return skipped(f"no DDP step: rank {rank} could not start: {result['error']}")
    rank, error = next((rank, result["error"]) for rank, result in enumerate(ranks) if result["error"])
    message = f"a DDP training step raises on rank {rank}: {error[:300]}; {_CAUSES}"
    return failed(message, rank=rank, error=error)


_CAUSES = "freeze and unfreeze before the DDP wrap, and leave no trainable parameter unused"
