"""inspector: how big a PyTorch model is, what it computes, and how we know.

The command line is `inspect`; the functions here return the same reports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from inspector.errors import InspectError

if TYPE_CHECKING:
    from inspector.api.bench import bench
    from inspector.api.ddp import ddp
    from inspector.api.diff import diff
    from inspector.api.env import env
    from inspector.api.freeze import Frozen, freeze
    from inspector.api.init import init
    from inspector.api.memory import memory
    from inspector.api.page import page
    from inspector.api.params import params
    from inspector.api.profile import profile, trace
    from inspector.api.reconcile import reconcile
    from inspector.api.stages import stages
    from inspector.api.table import table
    from inspector.report import Report
    from inspector.trace.formulas import Cost, formula
    from inspector.trace.record import Trace

__version__ = "0.1.0"
__all__ = [
    "Cost",
    "Frozen",
    "InspectError",
    "Report",
    "Trace",
    "bench",
    "ddp",
    "diff",
    "env",
    "formula",
    "freeze",
    "init",
    "memory",
    "page",
    "params",
    "profile",
    "reconcile",
    "stages",
    "table",
    "trace",
]

_HOMES = {
    "diff": "inspector.api.diff",
    "env": "inspector.api.env",
    "freeze": "inspector.api.freeze",
    "Frozen": "inspector.api.freeze",
    "init": "inspector.api.init",
    "memory": "inspector.api.memory",
    "stages": "inspector.api.stages",
    "page": "inspector.api.page",
    "table": "inspector.api.table",
    "params": "inspector.api.params",
    "profile": "inspector.api.profile",
    "reconcile": "inspector.api.reconcile",
    "Report": "inspector.report",
    "Trace": "inspector.trace.record",
    "Cost": "inspector.trace.formulas",
    "formula": "inspector.trace.formulas",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: torch takes seconds to import."""
    from importlib import import_module

    if name in ("bench", "ddp", "trace"):  # packages that can be called
        return import_module(f"inspector.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
