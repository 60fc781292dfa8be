"""Which samples each rank sees, and what it draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from inspector.distributed.checks.case import Case
from inspector.reporting.checks import check, failed, passed
from inspector.reporting.report import Finding


@check
def sampler(case: Case) -> Iterator[Finding]:
    """The ranks' shards cover every sample once, except for padding to equal lengths, and the training takes
    its batches from them: other ones on every rank and at every step."""
    parts = case.part("after")
    if not parts:
        return
    trained = [part["batches"] for part in parts]
    epoch = trained[0][: case.part("before")[0]["steps_per_epoch"] // case.settings.SOLVER.ACCUMULATE]
    if len(trained) > 1 and all(len(set(row)) == 1 for row in zip(*trained)):
        yield failed("all ranks train on the same batches: give the loader the sampler", batches=trained)
        return
    if len(epoch) > 2 and len(set(epoch)) == 1:
        yield failed(f"{len(epoch)} steps of an epoch train on one and the same batch: keep the iterator")
        return
    total, padding = parts[0]["samples"], 0
    for epoch in range(len(parts[0]["orders"])):
        orders = [part["orders"][epoch] for part in parts]
        seen = Counter(index for order in orders for index in order)
        missing, padding = total - len(seen), sum(map(len, orders)) - total
        repeated = sum(times - 1 for times in seen.values())
        if missing > 0 or repeated > min(max(padding, 0), len(parts) - 1):
            message = f"in epoch {epoch} ranks leave out {missing} of {total} samples and repeat {repeated}:"
            yield failed(f"{message} give the sampler rank and world size", missing=missing)
            return
    padded = f", {padding} of them twice to equal lengths" if padding else ""
    message = f"the shards of {len(parts)} ranks cover all {total} samples{padded}"
    yield passed(message, padding=padding)


@check
def set_epoch(case: Case) -> Iterator[Finding]:
    """The order of the samples and their augmentation change from epoch to epoch."""
    parts = case.part("after")
    if not parts:
        return
    augments = all(part["augments"] for part in case.part("before"))
    stuck = [epochs for part in parts for epochs in _standing_still(case, part)]
    if any(_repeats(part["orders"]) for part in parts) and len(parts[0]["orders"][0]) > 2:
        yield failed("two epochs have the same order: call sampler.set_epoch(epoch)")
    elif augments and any(_repeats(part["augmented"]) for part in parts):
        yield failed("two epochs augment the samples alike: give the dataset the epoch, too")
    elif stuck:
        yield failed(f"an epoch later the training is still in epoch {stuck[0]}: advance it", epochs=stuck)
    else:
        yield passed(
            f"the order {'and the augmentation change' if augments else 'changes'} from epoch to epoch"
        )


def _repeats(rows: list[list[int]]) -> bool:
    return len({tuple(row) for row in rows}) < len(rows)


def _standing_still(case: Case, part: dict[str, Any]) -> list[int]:
    """The epochs, of the sampler or of the augmentation, that were the same a whole epoch later."""
    length = case.part("before")[0]["steps_per_epoch"] // case.settings.SOLVER.ACCUMULATE
    pairs = zip(part["epochs"], part["epochs"][length:]) if length else ()
    return [
        one
        for before, after in pairs
        for one, other in zip(before, after)
        if one == other and one is not None
    ]


@check
def random_draws(case: Case) -> Iterator[Finding]:
    """Dropout and augmentation draw different random numbers on each rank."""
    parts = case.part("before")
    if len(parts) < 2:
        return
    augmented = len({tuple(part["augmented"]) for part in parts})
    if len({tuple(part["draws"]) for part in parts}) < len(parts):
        yield failed("two ranks have the same random state: dropout drops the same units on both")
    elif all(part["augments"] for part in parts) and augmented < len(parts):
        yield failed("two ranks augment the same samples in the same way: seed by rank")
    else:
        yield passed("random draws and augmentation differ between the ranks")
