"""Which samples each rank sees, and what it draws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from inspector.distributed.checks.case import Case
from inspector.reporting.checks import check, failed, passed
from inspector.reporting.report import Finding


@check
def sampler(case: Case) -> Iterator[Finding]:
    """The ranks' shards cover every sample once, except for padding to equal lengths."""
    parts = case.part("after")
    if not parts:
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
    """The order of the samples changes from epoch to epoch."""
    parts = case.part("after")
    if not parts:
        return
    if all(part["orders"][0] == part["orders"][1] for part in parts) and len(parts[0]["orders"][0]) > 2:
        yield failed("every epoch has the same order: call sampler.set_epoch(epoch)")
    else:
        yield passed("the order changes from epoch to epoch")


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
