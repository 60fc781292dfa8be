"""What the ranks did while they trained, and what they hold after it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from inspector.distributed.checks.case import Case, differing
from inspector.reporting.checks import check, failed, listed, passed, warned
from inspector.reporting.report import Finding


@check
def mode(case: Case) -> Iterator[Finding]:
    """The model is in train mode while it trains, except for modules kept in eval mode on purpose."""
    parts = case.part("after")
    for rank, part in enumerate(parts):
        kept = {path or "(model)" for path in part["resting"]}
        wrong = [path for path in part["in_eval"] if path not in kept]
        if wrong:
            step = part["in_eval"][wrong[0]]
            message = f"is in eval mode at step {step} of the run, on rank {rank} ({len(wrong)} in all)"
            yield from listed(failed, wrong, message)
            return
    if parts:
        yield passed("every module trains in train mode, except those kept in eval mode on purpose")


@check
def parameters(case: Case) -> Iterator[Finding]:
    """After every step all ranks have the same parameters, bit for bit.

    Under FSDP2 those that are not sharded; of the others each row is on one rank alone."""
    parts = case.part("after")
    if not parts or not parts[0]["digests"]:
        return
    for step, rows in enumerate(zip(*(part["digests"] for part in parts)), 1):
        wrong = differing(rows, case.names)
        if wrong:
            late = any(name in part["trained_late"] for part in parts for name in wrong)
            why = ": it was unfrozen after the wrap" if late else ""
            message = f"differs between the ranks after step {step} ({len(wrong)} in all){why}"
            yield failed(message, wrong[0], step=step, names=wrong)
            return
    steps, sharded = len(parts[0]["digests"]), case.part("before")[0].get("sharded") or []
    if sharded:
        left = len(case.names) - len(sharded)
        rest = f"the other {left} are the same after each of {steps} steps" if left else "none is whole"
        yield passed(f"of {len(sharded)} parameters each row is on one of {len(parts)} ranks; {rest}")
        return
    yield passed(f"all parameters are the same on {len(parts)} ranks after each of {steps} steps")


@check
def frozen(case: Case) -> Iterator[Finding]:
    """Parameters that the configuration froze do not move."""
    parts, start = case.part("after"), case.part("before")[0]
    if not parts or not start["frozen"] or not parts[0]["digests"]:
        return
    rows = zip(case.names, start["wrapped"], parts[0]["digests"][-1])
    moved = [name for name, first, last in rows if name in start["frozen"] and first != last]
    yield from listed(failed, moved, f"is frozen, and moved ({len(moved)} in all)")
    if not moved:
        yield passed(f"{len(start['frozen'])} frozen parameters did not move")


@check
def buffers(case: Case) -> Iterator[Finding]:
    """Buffers stay registered, and are the same on all ranks after a forward: DDP broadcasts rank 0's.

    FSDP2 synchronises none: those that drift apart between two validations are told, and this training
    broadcasts rank 0's before it validates and saves. They must be the same then."""
    parts = case.part("after")
    if not parts:
        return
    start = case.part("before")[0]["at_wrap"]
    gone = [name for name in start if any(name not in part["final_buffer_names"] for part in parts)]
    reassigned = sorted({name for part in parts for name in part["reassigned"]})
    wrong = differing([part["final_buffers"] for part in parts], parts[0]["final_buffer_names"])
    if gone:
        message = f"is no longer a registered buffer ({len(gone)} in all): neither DDP nor state_dict sees it"
        yield from listed(failed, gone, message)
    elif wrong:
        message = f"differs between the ranks after a forward ({len(wrong)} in all): DDP must broadcast it"
        if case.sharded:
            message = f"differs between the ranks at the end ({len(wrong)} in all): FSDP2 leaves it so;"
            message += " broadcast rank 0's before each validation and checkpoint"
        yield from listed(failed, wrong, message, reassigned=reassigned)
    elif parts[0].get("drifted"):
        yield from listed(warned, parts[0]["drifted"], _drifted(case, parts[0]["drifted"]))
    elif reassigned and len(parts) > 1:
        message = f"is reassigned while it trains ({len(reassigned)} in all): DDP before torch 2 loses it"
        yield from listed(warned, reassigned, message)
    elif parts[0]["final_buffers"]:
        count = len(parts[0]["final_buffers"])
        yield passed(f"{count} buffers are the same on {len(parts)} ranks after a forward")


def _drifted(case: Case, names: list[str]) -> str:
    message = f"differs between the ranks while they train ({len(names)} in all): FSDP2 synchronises no"
    message += " buffers. This training sends rank 0's to all before each validation and checkpoint"
    return f"{message}; yours must, too{', or use SyncBatchNorm' if case.job.device == 'cuda' else ''}"


@check
def scheduler(case: Case) -> Iterator[Finding]:
    """Validation loss, ReduceLROnPlateau and learning rates are the same on every rank; the rates are those
    that the scheduler gives, and none becomes zero."""
    parts = case.part("after")
    if not parts or not parts[0]["validations"]:
        return
    for entries in zip(*(part["validations"] for part in parts)):
        keys = [key for key in entries[0] if len({entry[key] for entry in entries}) > 1]
        if keys:
            values = [entry[keys[0]] for entry in entries]
            message = f"differs between the ranks at step {entries[0]['step']}: {values}; reduce the metric"
            yield failed(f"{message} over the ranks before scheduler.step()", keys[0])
            return
    if any(part["rates"] != parts[0]["rates"] for part in parts):
        yield failed("differs between the ranks", "lr")
        return
    wrong = _wrong_rate(parts[0])
    if wrong:
        yield failed(wrong, "lr")
        return
    count = len(parts[0]["validations"])
    message = f"validation loss, ReduceLROnPlateau and rates are the same on {len(parts)} ranks"
    yield passed(f"{message} at {count} validations")


def _wrong_rate(part: dict[str, Any]) -> str:
    """What is wrong with the rates of the steps; "" for nothing. The first may be zero: a warm-up."""
    rates, due = part["rates"], part["due_rates"]
    for number, row in enumerate(rates, 1):
        if number > 1 and not all(rate > 0 and math.isfinite(rate) for rate in row):
            return f"is {row} at step {number} of the run: it trains nothing"
        if due is not None and not all(map(math.isclose, row, due[number - 1])):
            return f"is {row} at step {number} of the run, and ReduceLROnPlateau gives {due[number - 1]}"
    return ""


@check
def loss_falls(case: Case) -> Iterator[Finding]:
    """The loss falls when the model trains on one batch again and again, and stays finite in the training."""
    for rank, part in enumerate(case.part("after")):
        wrong = [step for step, loss in enumerate(part["losses"], 1) if not math.isfinite(loss)]
        if wrong:
            yield failed(f"the loss is not finite at step {wrong[0]} of the run", f"rank {rank}", steps=wrong)
            return
    losses = case.ranks[0].get("fixed_batch")
    if not losses:
        return
    course = f"from {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps on one batch"
    if not all(math.isfinite(value) for value in losses):
        yield failed(f"the loss is not finite: {course}", losses=losses)
    elif not min(losses[-3:]) < losses[0]:
        yield failed(f"the loss does not fall: {course}", losses=losses)
    else:
        yield passed(f"the loss falls {course}", losses=losses)
