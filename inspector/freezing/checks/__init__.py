"""The checks of a frozen model, in the order of a report."""

from inspector.freezing.checks import forward, movement, notes, script, static
from inspector.freezing.checks.case import Case
from inspector.reporting.checks import checks_in

CHECKS = checks_in(static, movement, forward, notes, script)

__all__ = ["CHECKS", "Case"]
