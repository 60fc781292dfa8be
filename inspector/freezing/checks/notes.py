"""What a reader must know, although it is no fault."""

from __future__ import annotations

from collections.abc import Iterator

from inspector.backbones.walk import inside
from inspector.freezing.checks.case import Case
from inspector.freezing.probe import random_modules
from inspector.reporting.checks import listed, note, warned
from inspector.reporting.report import Finding


@note
def randomness(case: Case) -> Iterator[Finding]:
    """Names dropout in the frozen part: it stays random in train mode, although nothing in it trains."""
    paths = {id(module): path for path, module in case.model.named_modules()}
    drops = [paths[id(module)] for module in random_modules(case.model)]
    frozen = [path for path in drops if inside(path, case.plan.modules) or inside(path, case.plan.prefix)]
    counts = f"{len(frozen)} of {len(drops)} dropout or drop-path modules"
    yield from listed(warned, frozen, f"stays random in train mode, although frozen ({counts})")
