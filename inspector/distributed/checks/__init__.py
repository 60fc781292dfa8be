"""The checks of a training run, in the order of a report. Pure functions of what the ranks saw."""

from inspector.distributed.checks import data, gradients, processes, resuming, setup, training
from inspector.distributed.checks.case import Case
from inspector.reporting.checks import checks_in, examine
from inspector.reporting.report import Finding

ENDINGS = checks_in(processes)
CHECKS = (*ENDINGS, *checks_in(setup, gradients, data, training, resuming))


def examined(case: Case) -> list[Finding]:
    """The findings of every check whose evidence is there."""
    return examine(CHECKS if case.part("before") else ENDINGS, case)


__all__ = ["CHECKS", "Case", "examined"]
