"""How the processes of a training run ended."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.distributed.checks.case import Case
from inspector.reporting.checks import check, failed, warned
from inspector.reporting.report import Finding

FRAMES = 12
"""Lines of a stack that are shown."""


@check
def deadlock(case: Case) -> Iterator[Finding]:
    """No rank stops making progress (`DDP.STALL`), and the run ends before `--deadline`: it never hangs.

    Names the rank that the others wait for, with its stack; those of all ranks are in the evidence.
    """
    if case.outcome is None or case.outcome.stalled is None:
        return
    stalled, stacks = case.outcome.stalled, case.outcome.stacks
    rank, step = stalled["rank"], stalled.get("step")
    place = f"in {stalled['phase']!r}" + (f" after step {step}" if step is not None else "")
    why = "the deadline passed" if case.outcome.late else "no rank makes progress any more"
    message = f"{why}; the last sign of life of rank {rank} came {place}: it holds up the others"
    yield failed(message, f"rank {rank}", stacks=stacks, phase=stalled["phase"], step=step)
    for line in stacks.get(rank, "").strip().splitlines()[:FRAMES]:
        yield failed(line.strip(), f"rank {rank}")


@check
def worker(case: Case) -> Iterator[Finding]:
    """No process raises or dies; names the first that did, with its traceback."""
    outcome = case.outcome
    if outcome is None:
        return
    first = case.ranks[0] if case.ranks else {}
    deaths, step = first.get("deaths"), first.get("resumed_at")
    if deaths:
        start = f"at step {step}, where the checkpoint is" if step else "from the beginning"
        start = "with the resume that was checked" if "killed" in first else start
        times = "a process died" if deaths == 1 else f"processes died {deaths} times"
        message = f"{times}, and not on purpose (a signal: out of memory?)"
        yield warned(f"{message}: all were started again, and went on {start}", deaths=deaths)
    if outcome.errors:
        error, others = outcome.errors[0], len(outcome.errors) - 1
        after = f"; {others} other ranks failed after it" if others else ""
        step = f" after step {error['step']}" if error.get("step") is not None else ""
        message = f"raised in {error['phase']!r}{step}: {error['error']}{after}"
        yield failed(message, f"rank {error['rank']}", traceback=error["traceback"])
        for line in error["traceback"]:
            yield failed(line, f"rank {error['rank']}")
    elif outcome.code != 0 and outcome.stalled is None:
        codes = ", ".join(dict.fromkeys(outcome.exits)) or str(outcome.code)
        message = f"the processes ended with {codes} and left no traceback (a signal: out of memory?)"
        yield failed(message, exit_codes=outcome.exits)
