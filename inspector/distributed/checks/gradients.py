"""The gradients of the first step, and of accumulated batches, against those of one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inspector.distributed.checks.case import Case
from inspector.reporting.checks import check, failed, note, passed, skipped, warned
from inspector.reporting.report import Finding

FACTOR, FLOOR = 10.0, 1e-4
"""Gradients under DDP may be so many times as far from float64 as those of one process in the same
precision, and this far in any case (relative L2): a missing average or a wrong divisor is off by 0.5."""
USELESS = 0.3
"""Where rounding alone moves the gradients this far, float64 says nothing about them."""
ROUGH = 0.1
"""Then they may be this far from those of one process in the same precision, which rounds alike."""
EXACT = 1e-3
"""How far float32 gradients of the same kernels on the same batches may be apart: sums over ranks differ in
their last bits."""
NOISE = 10
"""One process must repeat itself so many times better than that."""
DIVISORS = "compute the loss as the mean over the rank's samples, and let {} average over the ranks"


RETAINED = {"ddp": "no_sync()", "fsdp": "set_requires_gradient_sync(False)"}
"""How each keeps the gradients of accumulated batches back."""


@check
def gradients(case: Case) -> Iterator[Finding]:
    """The gradients of the first step are those of one process in float64: each rank's shard by itself,
    averaged; with SyncBatchNorm those of the big batch.

    Dropout is off. Where rounding alone moves the gradients too far from float64, they are compared with
    one process in the same precision; with SyncBatchNorm they are then not compared.
    """
    part = case.ranks[0].get("gradients")
    if not part:
        return
    if "skipped" in part:
        yield skipped(f"not compared: {part['skipped']}")
        return
    if not _measured(part):
        yield failed(f"a gradient is missing or not finite under {_name(case)}", **part)
        return
    limit = _limit(part)
    reference = "the big batch" if part["synchronised_norms"] else "each shard by itself, averaged"
    message = f"the first step's gradients are {part['distance']:.2g} from those in float64 ({reference});"
    message += f" one process in the same precision: {part['alone']:.2g}"
    if limit > USELESS:
        yield _same_precision(part, message, _advice(case))
    elif part["distance"] > limit:
        name = part["worst"][0][0] if part["worst"] else ""
        yield failed(f"{message}; {_advice(case)}", name, **part)
    else:
        yield passed(message, **part)


@check
def later_gradients(case: Case) -> Iterator[Finding]:
    """At steps drawn at random and at the last one, the optimizer gets the gradients of one process, alike on
    every rank.

    Each rank's batches with its random numbers, one after the other, in the training's own precision,
    averaged. A smaller multiple of them, as clipping makes it, is told and does not fail. Not compared with
    SyncBatchNorm, and where one process computes the same shard twice and gets something else.
    """
    looked = [one for one in case.ranks[0].get("drawn") or () if one["taken"] or not one["overflowed"]]
    limit = ROUGH if case.settings.AMP.ENABLED else EXACT
    if not looked:
        return
    for one in looked:
        wrong = _wrong(one, limit, _advice(case))
        if wrong:
            yield failed(f"at step {one['step']} {wrong}", **one)
            return
    steps = f"steps {', '.join(str(one['step']) for one in looked)}"
    if any((one.get("noise") or 0.0) > limit / NOISE for one in looked):
        yield skipped(f"not compared at {steps}: one process computes other gradients the second time")
        return
    reason = next((one["reason"] for one in looked if "reason" in one), "")
    if reason:
        yield skipped(f"not compared at {steps}: one process cannot compute them ({reason})")
        return
    smaller = [one["scale"] for one in looked if one.get("scale") and one["scale"] < 1 - limit]
    message = f"the optimizer's gradients at {steps} are those of one process"
    if smaller:
        yield warned(f"{message}, down to {min(smaller):.3g} times as large, as clipping makes them")
    else:
        yield passed(message)


def _wrong(one: dict[str, Any], limit: float, advice: str) -> str:
    """What is wrong with the gradients of one step; "" for nothing."""
    if not one["taken"]:
        return "the optimizer takes no step"
    if not one["alike"]:
        return "the ranks hand different gradients to their optimizers"
    if "scale" not in one or (one["noise"] or 0.0) > limit / NOISE:
        return ""
    scale, far = one["scale"], one["distance"]
    if scale is None or far is None:
        return "the optimizer gets a gradient that is not finite, or none"
    if far > limit or not 0 < scale <= 1 + limit:
        size = f"{scale:.3g} times those of one process, and {far:.2g} from that"
        return f"the optimizer's gradients are {size}; {advice}"
    return ""


@check
def accumulation(case: Case) -> Iterator[Finding]:
    """Accumulated batches give the gradients of one big step, and are sent once: `no_sync` is around the
    forward, too; FSDP2 has `set_requires_gradient_sync(False)`."""
    part = case.ranks[0].get("gradients")
    if not part or not _measured(part):
        return
    count, times = part["micro_batches"], part["reduced"] / max(part["expected"], 1)
    accumulated = part["accumulated"]
    if part["reduced"] != part["expected"]:
        message = f"{count} accumulated batches send their gradients {times:.3g} times, not once:"
        yield failed(
            f"{message} the forward, too, must be inside {RETAINED[case.settings.DDP.SHARD]}", **part
        )
    elif accumulated is None or accumulated > _rough(part):
        message = f"{count} accumulated batches do not give the gradients of one step over all of them"
        yield failed(f"{message} ({accumulated})", **part)
    else:
        message = f"{count} accumulated batches equal one step over all of them, and are sent once"
        yield passed(f"{message} ({accumulated:.2g})")


@note
def averaging(case: Case) -> Iterator[Finding]:
    """Says that this torch's gloo adds up where FSDP2 asks for the mean."""
    parts = case.part("before")
    if parts and parts[0].get("adds_for_average"):
        message = "this torch's gloo gives the sum where FSDP2 asks for the mean of the gradients"
        message += f" (pytorch/pytorch#162338): {len(parts)} times too large. This training divides them:"
        yield warned(f"{message} yours on gloo must call set_force_sum_reduction_for_comms(True)")


def _advice(case: Case) -> str:
    return DIVISORS.format(_name(case))


def _name(case: Case) -> str:
    return "FSDP2" if case.sharded else "DDP"


def _measured(part: dict[str, Any]) -> bool:
    return part.get("distance") is not None and part.get("alone") is not None


def _limit(part: dict[str, Any]) -> float:
    return max(FACTOR * float(part["alone"]), FLOOR)


def _rough(part: dict[str, Any]) -> float:
    """How far sums in the same precision may differ; the big batch of SyncBatchNorm rounds otherwise."""
    limit = _limit(part)
    return limit if limit <= USELESS or part["synchronised_norms"] else ROUGH


def _same_precision(part: dict[str, Any], message: str, advice: str) -> Finding:
    """Gradients that rounding moves too far from float64, against one process that rounds alike."""
    why = f"rounding alone moves them too far for a comparison with float64 ({part['alone']:.2g})"
    if part["synchronised_norms"]:  # the big batch rounds otherwise
        return skipped(f"{why}: {message}", **part)
    here = (
        f"the first step's gradients are {part['same']:.2g} from those of one process, each shard by itself"
    )
    if part["same"] > ROUGH:
        return failed(f"{here}, in the same precision; {advice}", **part)
    return passed(f"{here}, averaged, in the same precision; {why}", **part)
