"""What each rank has built before it trains."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from inspector.distributed.checks.case import Case, differing
from inspector.reporting.checks import check, failed, listed, passed, warned
from inspector.reporting.report import Finding


@check
def uneven(case: Case) -> Iterator[Finding]:
    """Every rank has the same number of batches in an epoch: else one waits forever."""
    counts = [rank["steps_per_epoch"] for rank in case.part("before")]
    if len(set(counts)) > 1:
        message = f"batches in an epoch differ between ranks: {counts}; without Join one waits for ever"
        yield failed(message, batches=counts)
    elif not counts[0]:
        yield failed("an epoch holds no whole batch", batches=counts)
    else:
        yield passed(f"every rank has {counts[0]} batches in an epoch")


@check
def initial_weights(case: Case) -> Iterator[Finding]:
    """All ranks build the same weights, and hold the same parameters and buffers after the wrap.

    DDP's broadcast at the wrap would hide weights that were built differently; FSDP2 takes from each rank the
    rows that it keeps, and its shards together must be what was built.
    """
    parts = case.part("before")
    same = True
    for key, names, what in (
        ("initial", case.names, "was built differently on the ranks before the wrap: seed them alike"),
        ("wrapped", case.names, "is different on the ranks after the wrap"),
        ("buffers", parts[0]["buffer_names"], "is different on the ranks after the wrap"),
    ):
        wrong = differing([part[key] for part in parts], names)
        same = same and not wrong
        yield from listed(failed, wrong, f"{what} ({len(wrong)} in all)")
    if case.sharded and same:
        wrong = differing([parts[0]["initial"], parts[0]["whole"]], case.names)
        same = not wrong
        message = f"is not what was built, put together from the shards ({len(wrong)} in all)"
        yield from listed(failed, wrong, f"{message}: initialise or load it after the wrap")
    if same:
        counts = f"{len(case.names)} parameters and {len(parts[0]['buffers'])} buffers"
        yield passed(f"{counts} are the same on {len(parts)} ranks, before and after the wrap")


@check
def unused_parameters(case: Case) -> Iterator[Finding]:
    """A gradient reaches every trainable parameter: else DDP's reduction waits, or raises at the next step.

    With `DDP.FIND_UNUSED` only a warning. FSDP2 trains on, but torch's distributed state dict resumes no
    optimizer that lacks the state of a parameter.
    """
    parts = case.part("unused")
    allowed = bool(case.settings.DDP.FIND_UNUSED)
    for rank, part in enumerate(parts):
        names = part["names"]
        if names:
            hint = "" if allowed else ": freeze them"
            hint += "" if allowed or case.sharded else ", or --set DDP.FIND_UNUSED True"
            message = f"no gradient reaches it on rank {rank} ({len(names)} in all){hint}"
            yield from listed(warned if allowed else failed, names, message)
            return
    if parts:
        yield passed("a gradient reaches every trainable parameter")


@check
def optimizer(case: Case) -> Iterator[Finding]:
    """The optimizer holds each trainable parameter once and no frozen one, and biases get their own learning
    rate and weight decay.

    Against BASE_LR, BIAS_LR_FACTOR, WEIGHT_DECAY and WEIGHT_DECAY_BIAS of the settings; biases are the
    parameters called "bias".
    """
    part = case.part("before")[0]
    frozen, trainable = set(part["frozen"]), set(case.names) - set(part["frozen"])
    held = Counter(name for group in part["groups"] for name in group["names"])
    rates = [group["lr"] for group in part["groups"]]
    faults = {
        "is frozen, and the optimizer holds it": sorted(frozen & set(held)),
        "is trainable, and the optimizer does not hold it": sorted(trainable - set(held)),
        "is held by the optimizer more than once": [n for n, times in held.items() if times > 1],
        "is held by the optimizer, and is not of this model": [n for n in held if n not in case.names],
    }
    for message, names in faults.items():
        advice = "build the optimizer after freezing, from this model"
        yield from listed(failed, names, f"{message} ({len(names)} in all): {advice}")
    useless = not all(rate > 0 and math.isfinite(rate) for rate in rates)
    if useless:
        yield failed(f"learning rates {rates} train nothing", lr=rates)
    unruly = list(_against_the_rule(case))
    yield from unruly
    if not (any(faults.values()) or useless or unruly):
        shown = ", ".join(f"{rate:g}" for rate in rates)
        yield passed(f"{len(held)} trainable parameters once each; learning rates {shown}")


def _against_the_rule(case: Case) -> Iterator[Finding]:
    """The first parameter of each group whose rate and decay are not what the settings say."""
    solver = case.settings.SOLVER
    base = (solver.BASE_LR, solver.WEIGHT_DECAY)
    bias = (solver.BASE_LR * solver.BIAS_LR_FACTOR, solver.WEIGHT_DECAY_BIAS)
    for group in case.part("before")[0]["groups"]:
        actual = (group["lr"], group["weight_decay"])
        for name in group["names"]:
            rate, decay = bias if name.rpartition(".")[2] == "bias" else base
            if name in case.names and not _near(actual, (rate, decay)):
                message = f"has rate {actual[0]:g} and decay {actual[1]:g}, not {rate:g} and {decay:g}"
                yield failed(message, name)
                break


def _near(actual: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-15) for a, b in zip(actual, wanted))
