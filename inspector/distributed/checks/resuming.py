"""Checkpoints, and training that goes on from them."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.distributed.checks.case import Case
from inspector.reporting.checks import check, failed, listed, note, passed, skipped, warned
from inspector.reporting.report import Finding

ROUNDING = 1e-2
"""Relative distance of losses some steps after a sum in another order: each step multiplies it."""


@check
def checkpoint(case: Case) -> Iterator[Finding]:
    """A save that fails half-way leaves the previous checkpoint intact, and one rank writes it."""
    fault = case.ranks[0].get("interrupted_save")
    writers: dict[str, list[int]] = {}
    for rank, places in enumerate(case.part("wrote")):
        for place in places:
            writers.setdefault(place, []).append(rank)
    shared = {place: ranks for place, ranks in writers.items() if len(ranks) > 1}
    if shared:
        place, ranks = next(iter(shared.items()))
        message = f"ranks {', '.join(map(str, ranks))} all write it: let rank 0 write, and the others wait"
        yield failed(message, place.partition(":")[2].rpartition("/")[2], files=shared)
    elif fault:
        yield failed(f"{fault}: write a temporary file, then os.replace")
    elif fault is not None:
        yield passed("a save that fails half-way leaves the previous checkpoint intact")


@note
def resumed(case: Case) -> Iterator[Finding]:
    """Says that a resumed run did not repeat the checks before the first step."""
    step = case.ranks[0].get("resumed_at")
    if step is not None:
        yield warned(f"went on at step {step}: the checks before the first step were not repeated")


@check
def resume(case: Case) -> Iterator[Finding]:
    """Training that resumes from a checkpoint ends bit for bit where uninterrupted training ends.

    Parameters, buffers, optimizer, scheduler, scaler and random state of every rank: right after the resume,
    against the checkpoint, and at the end; from the last checkpoint before the end. On a GPU with operators
    that have no deterministic kernel, the losses are compared within rounding, and it says so.
    """
    whole, again = case.part("fingerprint"), case.part("resumed")
    first = case.ranks[0]
    lost: list[str] = next((part["names"] for part in case.part("unrestored") if part["names"]), [])
    if lost:
        yield from listed(
            failed, lost, f"is not as the checkpoint has it after a resume ({len(lost)} in all)"
        )
    if whole and again:
        start = f"training resumed at step {again[0]['from']} ({again[0]['where']})"
        wrong = [rank for rank, (a, b) in enumerate(zip(whole, again)) if a["sums"] != b["sums"]]
        missing: list[str] = first.get("nondeterministic") or []
        apart = _apart(case) if wrong and missing else None
        if apart is not None and apart < ROUNDING:
            names = ", ".join(missing[:3])
            message = f"{start} ends within rounding, not bit for bit: {names} has no deterministic kernel"
            yield warned(f"{message} here; its losses are at most {apart:.1e} apart", ranks=wrong)
        elif wrong:
            message = f"{start} does not end where uninterrupted training ends, on rank {wrong[0]}"
            yield failed(message, ranks=wrong)
        else:
            yield passed(f"{start} ends bit for bit where uninterrupted training ends")
    elif first.get("resumed_at") is None and "after" in first and "resumed" not in first:
        yield skipped(f"not checked: {_too_few(case)}")


def _apart(case: Case) -> float | None:
    """How far apart the losses after a resume are from those of the uninterrupted training, relatively."""
    pairs = [
        (one, two)
        for rank, again in zip(case.part("after"), case.part("resumed"))
        for one, two in zip(reversed(rank["losses"]), reversed(again.get("losses") or []))
    ]
    return max((abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in pairs), default=None)


@check
def killed(case: Case) -> Iterator[Finding]:
    """Workers that are started again after one was killed by SIGKILL go on at the checkpoint."""
    first = case.ranks[0]
    kill = first.get("killed")
    if kill is not None:
        message = f"killed by SIGKILL after step {kill['at']}, the workers were started again and went on"
        message += f" at step {kill['step']}, where the checkpoint is"
        make = passed if kill["expected"] == kill["step"] else failed
        yield make(message, f"rank {kill['rank']}", **kill)
    elif "after" in first:
        yield skipped(f"no worker was killed: {_why_none_killed(case)}")


def _why_none_killed(case: Case) -> str:
    if case.outcome is None:
        return "nobody here would start it again"
    if case.ranks[0].get("deaths"):
        return "one that had died before was started again"
    if case.job.kill:
        return _too_few(case)
    return "this run was a resumed one" if case.job.resume else "not asked for, or not possible (see --kill)"


def _too_few(case: Case) -> str:
    every = case.settings.SOLVER.VALIDATE_EVERY
    return (
        f"no checkpoint lies before the last step; SOLVER.STEPS {every + 1} would do (SOLVER.VALIDATE_EVERY)"
    )


@note
def ranks(case: Case) -> Iterator[Finding]:
    """Says that one process shows no difference between ranks."""
    if len(case.ranks) == 1:
        yield warned("one process: nothing can differ between ranks")
