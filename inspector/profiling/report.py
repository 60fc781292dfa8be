"""The report of a trace: a pure function of it, which needs no torch."""

from __future__ import annotations

from inspector.core.errors import InspectError
from inspector.profiling.views.modules import layers_frame, modules_frame, tree, types_frame
from inspector.profiling.views.ops import ops_frame, unknown_frame
from inspector.profiling.views.totals import totals
from inspector.reporting.registry import QUANTITIES, Unit
from inspector.reporting.report import Finding, Metric, Report, Section, metrics
from inspector.tracing.record import Failure, Trace

GROUPINGS = ("module", "type", "op")


def report(
    found: Trace,
    *,
    by: str = "module",
    depth: int = 2,
    top: int | None = None,
    strict: bool = False,
) -> Report:
    """The report of a trace: a pure function of it."""
    if by not in GROUPINGS:
        raise InspectError(f"cannot group by {by!r}", f"use one of: {', '.join(GROUPINGS)}")
    sums = totals(found)
    modules, ops, unknown = modules_frame(found), ops_frame(found), unknown_frame(found)
    return Report(
        command="profile",
        subject=found.subject,
        environment=dict(found.environment),
        metrics=_metrics(found, sums),
        tables={"modules": modules, "ops": ops, "unknown": unknown, "layers": layers_frame(found)},
        findings=_findings(found, sums, strict),
        verdict="fail" if found.failure or (strict and sums["unknown_ops"]) else "none",
        header=_header(found, sums),
        sections=_sections(found, by, depth, top),
    )


def _metrics(trace: Trace, sums: dict[str, int]) -> dict[str, Metric]:
    """The sums in the registry's order; those that formulas give are lower bounds where one is missing."""
    counted = {name for name, entry in QUANTITIES.items() if entry.unit in (Unit.MAC, Unit.FLOP)}
    pointwise = {name for name in counted if QUANTITIES[name].unit == Unit.FLOP}
    partial = sums["unknown_ops"] > 0 or trace.failure is not None
    bounds = counted | {"activations"} if partial else pointwise if trace.uncounted else set()
    return metrics({name: sums[name] for name in sorted(sums, key=list(QUANTITIES).index)}, bounds)


def _header(found: Trace, sums: dict[str, int]) -> list[tuple[str, str]]:
    kind = found.modules[0].type if found.modules else ""
    phase = {
        "forward": "forward (eval mode, no gradients)",
        "train": "train (train mode, forward and backward)",
    }[found.phase]
    where = {"meta": "meta (shapes only: no weights, no data)"}.get(found.device, found.device)
    known = sums["ops"] - sums["unknown_ops"]
    return [
        ("model", f"{found.model} ({found.source}, {kind})"),
        ("input", " ".join(found.inputs)),
        ("phase", phase),
        ("counted on", where),
        ("coverage", f"{known} of {sums['ops']} operators have a formula"),
    ]


def _sections(found: Trace, by: str, depth: int, top: int | None) -> list[Section]:
    if by == "module":
        frame = tree(modules_frame(found), found.model, depth, top)
        title = f"modules (depth {depth}, children included)"
    elif by == "type":
        frame, title = types_frame(found), "module types (children not included)"
    else:
        frame, title = ops_frame(found), "operators"
    note = ""
    if top is not None and by != "module" and len(frame) > top:
        note, frame = f"(the largest {top} of {len(frame)})", frame.head(top)
    for column in ("unknown_ops", "unknown"):
        if column in frame and not frame[column].any():
            frame = frame.drop(columns=column)
    sections = [Section(title, frame, note)]
    unknown = unknown_frame(found)
    if len(unknown):
        sections.append(Section("operators without a formula", unknown))
    return sections


def _findings(found: Trace, sums: dict[str, int], strict: bool) -> list[Finding]:
    findings = [Finding("provenance", "warn", "", note) for note in found.notes]
    findings += [
        Finding("coverage", "warn", "", f"not counted on {found.device}: {work} (pointwise work)")
        for work in found.uncounted
    ]
    if found.failure is not None:
        findings.append(_failed(found.failure))
    if sums["unknown_ops"]:
        unknown = unknown_frame(found).groupby("op", sort=True)["calls"].sum()
        names = ", ".join(f"{op} ({calls})" for op, calls in unknown.items())
        findings.append(
            Finding(
                "coverage",
                "fail" if strict else "warn",
                "",
                f"no formula for {names}: MACs, FLOPs and activations are lower bounds",
                {str(op): int(calls) for op, calls in unknown.items()},
            )
        )
    findings += _unused(found)
    return findings


def _failed(failure: Failure) -> Finding:
    return Finding(
        "forward",
        "fail",
        failure.module,
        f"{failure.type} raised {failure.error}; the totals hold up to here",
        {"inputs": list(failure.inputs), "message": failure.message},
    )


def _unused(found: Trace) -> list[Finding]:
    """Parameters that no operator read: present in the count of parameters, absent from the MACs."""
    if found.failure is not None or found.source == "":
        return []
    used = {spec.storage for op in found.ops for spec in op.inputs}
    idle = sum(
        1 for i, s in enumerate(found.storages) if s.role == "parameter" and i not in used and s.nbytes
    )
    if not idle:
        return []
    return [
        Finding(
            "unused",
            "warn",
            "",
            f"{idle} parameter tensors were not read by any operator in this pass",
        )
    ]
