"""Reports written by hand, as JSON content, for comparisons whose outcome is known without running any."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from inspector.regress.content import Side
from inspector.regress.content import side as read_side

Content = dict[str, Any]
ENVIRONMENT: Content = {
    "inspector": "0.1.0",
    "torch": "2.15.0",
    "torchvision": "0.29.0",
    "python": "3.11.7",
    "gpu": None,
}
HELD = {
    "params": ("count", "exact", "lower"), "macs": ("MAC", "exact", "lower"),
    "ops": ("count", "exact", "none"),
    "calls": ("count", "exact", "none"), "latency": ("second", "noisy", "lower"),
    "seconds": ("second", "noisy", "lower"), "cpu_seconds": ("second", "noisy", "lower"),
    "start": ("second", "noisy", "none"), "samples": ("count", "exact", "none"),
}  # fmt: skip
"""Unit, kind and direction of the columns that hold numbers."""
MACHINE = {**ENVIRONMENT, "platform": "Linux", "threads": 1, "device": "cpu"}


def row(name: str, **values: Any) -> Content:
    """A row of a table; `values` are its numbers and what differs from the usual."""
    return {
        "model": name,
        "spec": name,
        "given_inputs": None,
        "model_args": {},
        "source": "torchvision",
        "class": "Net",
        "inputs": ["float32[1,3,32,32]"],
        "phase": "forward",
        "device": "meta",
        "notes": [],
        "error": "",
        "lower_bound": [],
        **values,
    }


def layer(model: str, path: str, kind: str, shape: str, params: int, macs: int, calls: int = 1) -> Content:
    return {
        "model": model, "path": path, "type": kind, "shape": shape, "calls": calls, "params": params,
        "macs": macs,
    }  # fmt: skip


def rounds(model: str, seconds: list[float], start: float, job: str = "one", step: float = 2.0) -> list[Any]:
    """A visit every `step` seconds from `start`: two sides that start 1 apart were measured in turn."""
    return [
        {
            "model": model,
            "start": start + step * place,
            "seconds": value,
            "cpu_seconds": value / 2,
            "samples": 5,
            "job": job,
        }
        for place, value in enumerate(seconds)
    ]


def columns(tables: dict[str, list[Content]]) -> Content:
    return {
        table: {
            name: {
                **dict(zip(("unit", "kind", "direction"), HELD.get(name, ("", "exact", "none")))),
                "label": name.replace("_", " "),
            }
            for name in dict.fromkeys(name for row in rows for name in row)
        }
        for table, rows in tables.items()
    }


def table(rows: list[Content], environment: Content | None = None, **tables: Any) -> Content:
    return deepcopy(
        {
            "schema": "inspector.report/2",
            "command": "table",
            "subject": {"name": "zoo", "source": "table", "inputs": [], "phase": None, "device": None},
            "environment": environment or ENVIRONMENT,
            "metrics": {
                "models": {"value": len(rows), "unit": "count", "kind": "exact", "direction": "none"},
                "failed": {
                    "value": sum(bool(one["error"]) for one in rows),
                    "unit": "count",
                    "kind": "exact",
                    "direction": "lower",
                },
            },
            "columns": columns({"models": rows, **tables}),
            "tables": {"models": rows, **tables},
            "findings": [],
            "verdict": "none",
        }
    )


def metric(value: Any, unit: str = "MAC", kind: str = "exact", direction: str = "lower", **more: Any) -> Any:
    return {"value": value, "unit": unit, "kind": kind, "direction": direction, **more}


def single(
    command: str = "profile",
    metrics: Content | None = None,
    findings: list[Any] | None = None,
    environment: Content | None = None,
    **subject: Any,
) -> Content:
    return deepcopy(
        {
            "schema": "inspector.report/2",
            "command": command,
            "subject": {
                "name": "net", "source": "python", "inputs": ["float32[1,3,32,32]"], "phase": "forward",
                "device": "meta", **subject,
            },
            "environment": environment or ENVIRONMENT,
            "metrics": metrics or {},
            "columns": {},
            "tables": {},
            "findings": findings or [],
            "verdict": "none",
        }
    )  # fmt: skip


def finding(check: str, status: str, message: str = "", subject: str = "") -> Content:
    return {"check": check, "status": status, "subject": subject, "message": message, "evidence": {}}


def side(content: Content, place: str = "base.json") -> Side:
    return read_side(content, place)


def eight_states() -> tuple[Content, Content]:
    """Two tables that differ in every way there is: each model is one of the eight states.

    ok        params 1000 on both sides
    improved  params 1000 to 900
    regressed params 1000 to 1500 and macs 2000 to 3000: `conv`, of 500 parameters and 1000 MACs, doubled
    new       only in HEAD
    missing   only in BASE
    invalid   params 1000, and in HEAD unknown
    incomparable  macs 2000 at another input
    noisy     latency, on two machines of the same kind but one after the other
    """
    conv = [layer("regressed", "conv", "Conv2d", "10x10x5x1", 500, 1000)]
    wide = [layer("regressed", "conv", "Conv2d", "20x10x5x1", 1000, 2000)]
    head_layer = [layer("regressed", "head", "Linear", "10x50", 500, 1000)]
    seconds = [0.010] * 12
    base = table(
        [
            row("ok", params=1000),
            row("improved", params=1000),
            row("regressed", params=1000, macs=2000),
            row("missing", params=1000),
            row("invalid", params=1000),
            row("incomparable", macs=2000),
            row("noisy", latency=0.010),
        ],
        MACHINE,
        layers=conv + head_layer,
        rounds=rounds("noisy", seconds, start=0.0),
    )
    head = table(
        [
            row("ok", params=1000),
            row("improved", params=900),
            row("regressed", params=1500, macs=3000),
            row("new", params=1000),
            row("invalid", params=None),
            row("incomparable", macs=2000, inputs=["float32[1,3,64,64]"]),
            row("noisy", latency=0.012),
        ],
        MACHINE,
        layers=wide + head_layer,
        rounds=rounds("noisy", [0.012] * 12, start=100.0),
    )
    return base, head
