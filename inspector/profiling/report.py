"""The report of a trace: a pure function of it, which needs no torch."""

from __future__ import annotations

from collections.abc import Mapping

from inspector.core.errors import InspectError
from inspector.profiling.charts import icicle
from inspector.profiling.views.modules import layers_frame, modules_frame, tree, types_frame
from inspector.profiling.views.ops import ops_frame, unknown_frame
from inspector.profiling.views.serving import serving
from inspector.profiling.views.state import stored_otherwise
from inspector.profiling.views.tokens import rule_frame, training
from inspector.profiling.views.totals import totals
from inspector.reporting.registry import QUANTITIES, Unit
from inspector.reporting.report import Finding, Metric, Report, Section, metrics
from inspector.tracing.record import Failure, Served, Trace, called

GROUPINGS = ("module", "type", "op")


def report(
    trace: Trace,
    *,
    by: str = "module",
    depth: int = 2,
    top: int | None = None,
    strict: bool = False,
) -> Report:
    """The report of a trace: a pure function of it."""
    if by not in GROUPINGS:
        raise InspectError(f"cannot group by {by!r}", f"use one of: {', '.join(GROUPINGS)}")
    sums = {**totals(trace), **serving(trace), **training(trace)}
    modules, ops, unknown = modules_frame(trace), ops_frame(trace), unknown_frame(trace)
    sections = _sections(trace, by, depth, top)
    return Report(
        command="profile",
        subject=trace.subject,
        environment=dict(trace.environment),
        metrics=_metrics(trace, sums),
        tables={"modules": modules, "ops": ops, "unknown": unknown, "layers": layers_frame(trace)},
        findings=_findings(trace, sums, strict),
        verdict="fail" if trace.failure or (strict and sums["unknown_ops"]) else "none",
        header=_header(trace, sums),
        sections=sections,
        more_charts=lambda: [icicle(trace, sections[0].title if by == "module" else "")],
    )


def _metrics(trace: Trace, sums: Mapping[str, float]) -> dict[str, Metric]:
    """The sums in the registry's order; those that formulas give are lower bounds where one is missing."""
    counted = {name for name, entry in QUANTITIES.items() if entry.unit in (Unit.MAC, Unit.FLOP)}
    pointwise = {name for name in counted if QUANTITIES[name].unit == Unit.FLOP}
    partial = sums["unknown_ops"] > 0 or trace.failure is not None
    bounds = counted | {"activations"} if partial else pointwise if trace.uncounted else set()
    return metrics({name: sums[name] for name in sorted(sums, key=list(QUANTITIES).index)}, bounds)


def _header(trace: Trace, sums: Mapping[str, float]) -> list[tuple[str, str]]:
    kind = trace.modules[0].type if trace.modules else ""
    modes = {"forward": "eval mode, no gradients", "train": "train mode, forward and backward"}
    if trace.served is not None:
        modes[trace.phase] = _served(trace.served)
    where = "meta (shapes only: no weights, no data)" if trace.device == "meta" else trace.device
    covered = sums["ops"] - sums["unknown_ops"]
    return [
        ("model", f"{trace.model} ({trace.source}, {kind})"),
        *called(trace.call),
        ("input", " ".join(trace.inputs)),
        ("phase", f"{trace.phase} ({modes[trace.phase]})"),
        ("counted on", where),
        ("coverage", f"{covered} of {sums['ops']} operators have a formula"),
    ]


def _served(served: Served) -> str:
    """The step in words: what is computed, on what."""
    sequences = "1 sequence" if served.batch == 1 else f"{served.batch} sequences"
    new = served.tokens // served.batch
    before = "" if new == served.context else f" after {served.context:,} in a {served.cache}"
    return f"{sequences}, {new:,} token{'s' if new > 1 else ''} each{before}; eval mode, no gradients"


def _sections(trace: Trace, by: str, depth: int, top: int | None) -> list[Section]:
    if by == "module":
        frame = tree(modules_frame(trace), trace.model, depth, top)
        title = f"modules (depth {depth}, children included)"
    elif by == "type":
        frame, title = types_frame(trace), "module types (children not included)"
    else:
        frame, title = ops_frame(trace), "operators"
    note = ""
    if top is not None and by != "module" and len(frame) > top:
        note, frame = f"(the largest {top} of {len(frame)})", frame.head(top)
    for column in ("unknown_ops", "unknown"):
        if column in frame and not any(frame[column]):
            frame = frame.drop(column)
    sections = [Section(title, frame, note)]
    rule = rule_frame(trace)
    if rule is not None:
        sections.append(Section("FLOPs of training a token, against 6 a parameter", rule))
    unknown = unknown_frame(trace)
    if len(unknown):
        sections.append(Section("operators without a formula", unknown))
    return sections


def _findings(trace: Trace, sums: Mapping[str, float], strict: bool) -> list[Finding]:
    findings = [Finding("provenance", "warn", "", note) for note in trace.notes]
    if stored := stored_otherwise(trace.state):
        findings.append(Finding("stored", "warn", "", stored))
    findings += [
        Finding("coverage", "warn", "", f"not counted on {trace.device}: {work} (pointwise work)")
        for work in trace.uncounted
    ]
    if trace.failure is not None:
        findings.append(_failed(trace.failure))
    if sums["unknown_ops"]:
        groups = unknown_frame(trace).groups("op")
        evidence = {op: sum(groups[op]["calls"]) for op in sorted(groups)}
        names = ", ".join(f"{op} ({calls})" for op, calls in evidence.items())
        text = f"no formula for {names}: MACs, FLOPs and activations are lower bounds"
        findings.append(Finding("coverage", "fail" if strict else "warn", "", text, evidence))
    return findings + _unused(trace)


def _failed(failure: Failure) -> Finding:
    text = f"{failure.type} raised {failure.error}; the totals cover only what ran before it"
    evidence = {"inputs": list(failure.inputs), "message": failure.message}
    return Finding("forward", "fail", failure.module, text, evidence)


def _unused(trace: Trace) -> list[Finding]:
    """Parameters that no operator read: present in the count of parameters, absent from the MACs."""
    if trace.failure is not None or trace.source == "":
        return []
    used = {spec.storage for op in trace.ops for spec in op.inputs}
    idle = sum(
        1 for i, s in enumerate(trace.storages) if s.role == "parameter" and i not in used and s.nbytes
    )
    text = f"{idle} parameter tensors were not read by any operator in this pass"
    return [Finding("unused", "warn", "", text)] if idle else []
