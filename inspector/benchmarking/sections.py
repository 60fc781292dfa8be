"""The report of a benchmark: one row a precision, its checks, and two charts."""

from __future__ import annotations

from typing import Any

import torch

from inspector.benchmarking import gpu
from inspector.benchmarking.checks import CHECKS, Case
from inspector.benchmarking.drift import Drift
from inspector.benchmarking.precisions import SWITCHES
from inspector.benchmarking.record import Group, Row
from inspector.benchmarking.run import Bench
from inspector.benchmarking.stats import claimed
from inspector.models import Recipe
from inspector.models.device import gpu_name
from inspector.models.inputs import Inputs, materialise
from inspector.reporting.checks import examine
from inspector.reporting.numbers import counted
from inspector.reporting.report import Chart, Finding, Metric, Report, Section, environment, metrics
from inspector.reporting.tables import Table
from inspector.tracing.describe import describe_call
from inspector.tracing.record import called

WORST = 5
_OPTIONAL = (
    "allocated", "reserved", "TFLOP/s", "of peak", "joules", "gradients", "top-1", "p99", "first call",
)  # fmt: skip
"""Columns left out of a section in which no row has a value for them."""


def report(
    bench: Bench,
    recipe: Recipe,
    inputs: Inputs,
    *,
    strict: bool,
    random_weights: bool,
    interrupted: bool = False,
) -> Report:
    """Everything that `bench` has measured."""
    findings = _remarks(bench, random_weights, interrupted)
    for group in bench.groups:
        findings += examine(CHECKS, Case(group, strict))
    rows = [row for group in bench.groups for row in group.rows]
    table = Table.of([_record(row, group.base) for group in bench.groups for row in group.rows])
    failed = any(finding.status == "fail" for finding in findings)
    measured = any(row.latency is not None for row in rows)
    tables = {"rows": table, "drift": _drift_frame(rows), "rounds": _rounds(rows)}
    return Report(
        command="bench",
        subject={
            "name": recipe.name,
            "source": recipe.source,
            "inputs": _described(bench, inputs),
            "phase": ", ".join(dict.fromkeys(group.mode for group in bench.groups)),
            "device": bench.options.device,
            **dict(called(recipe.call)),
        },
        environment=_environment(bench),
        metrics=_metrics(rows),
        tables={key: frame for key, frame in tables.items() if len(frame)},
        findings=findings,
        verdict="fail" if failed else "pass" if measured and not interrupted else "none",
        header=_header(bench, recipe, inputs),
        sections=[_section(group) for group in bench.groups] + _worst(rows),
        charts=charts(table) if len(table) else [],
    )


def _described(bench: Bench, inputs: Inputs) -> list[str]:
    return describe_call(*materialise(inputs, bench.model, "meta"))


def _environment(bench: Bench) -> dict[str, Any]:
    device, options = bench.options.device, bench.options
    facts: dict[str, Any] = {"gpu": None, "threads": torch.get_num_threads(), "seed": options.seed}
    if not device.startswith("cuda"):
        facts["gpu"] = gpu_name(device)
    else:
        state = gpu.state(torch.device(device).index or 0)
        facts["gpu"] = gpu_name(device)
        facts["driver"] = getattr(state, "driver", None)
        facts["cuda"], facts["cudnn"] = torch.version.cuda, torch.backends.cudnn.version()
    return environment(**facts, **{name: name in _switches(bench) for name in SWITCHES})


def _switches(bench: Bench) -> list[str]:
    """The switches that are on in some row."""
    on = {name for group in bench.groups for row in group.rows for name in row.precision.switches}
    return [name for name in SWITCHES if name in on]


def _header(bench: Bench, recipe: Recipe, inputs: Inputs) -> list[tuple[str, str]]:
    device = bench.options.device
    if device == "cpu":
        place = (
            f"cpu, {counted(torch.get_num_threads(), 'thread')} ({torch.backends.cpu.get_cpu_capability()})"
        )
    else:
        place = f"{gpu_name(device)} ({device})"
    lines = [
        ("model", f"{recipe.name} ({recipe.source}, {type(bench.model).__name__})"),
        *called(recipe.call),
        ("input", ", ".join(_described(bench, inputs))),
        ("device", place),
    ]
    chosen = _switches(bench)
    if chosen:
        lines.append(("with", ", ".join(chosen)))
    if device == "cpu":
        lines.append(("times", "report only: measured on a CPU, they say nothing about a GPU"))
    probes = {r.precision.label: r.probe for g in bench.groups for r in g.rows if r.probe is not None}
    lines += [("ran as", f"{label}: {probe.described()}") for label, probe in probes.items()]
    scaled = {row.in_fp8 for group in bench.groups for row in group.rows if row.in_fp8 is not None}
    lines += [("FP8", f"{inside} of {layers} Linear layers, the rest in BF16") for inside, layers in scaled]
    return lines


def _remarks(bench: Bench, random_weights: bool, interrupted: bool) -> list[Finding]:
    remarks = []
    if interrupted:
        message = "interrupted: shows only what had been measured by then"
        remarks.append(Finding("interrupted", "warn", "", message))
    if random_weights:
        message = "weights are random (seeded): drift is that of an untrained model; see --weights"
        remarks.append(Finding("weights", "warn", "", message))
    if bench.options.device != "cpu" and not bench.peaks:
        message = "this device is not in the table of peaks: no fraction of peak is given"
        remarks.append(Finding("peak", "skip", bench.options.device, message))
    return remarks


def _record(row: Row, base: Row) -> dict[str, Any]:
    """One machine-readable row: seconds, bytes, plain ratios; None is not measured."""
    drift, warm, interval, ratio = row.drift, row.warm, row.interval, row.speedup_interval
    return {
        "mode": row.mode,
        "batch": row.batch,
        "precision": row.precision.name,
        "status": "absent" if row.absent else "measured" if row.latency is not None else "not reached",
        "reason": row.absent,
        "latency": row.latency,
        "latency_low": interval.low if interval else None,
        "latency_high": interval.high if interval else None,
        "p95": row.p95,
        "p99": row.p99,
        "samples_per_second": row.rate,
        "rounds": len(row.visits),
        "against": base.precision.name if row.speedup is not None else None,
        "speedup": row.speedup,
        "speedup_low": ratio.low if ratio else None,
        "speedup_high": ratio.high if ratio else None,
        "difference_claimed": claimed(row.speedup_interval) if row.speedup is not None else None,
        "warm_up_calls": warm.calls if warm else None,
        "warm_up_seconds": warm.seconds if warm else None,
        "first_call_seconds": warm.first if warm else None,
        "peak_allocated": row.allocated,
        "peak_reserved": row.reserved,
        "macs": row.macs,
        "tflops": row.tflops,
        "fraction_of_peak": row.fraction,
        "matmul_error": row.probe.matmul if row.probe else None,
        "conv_error": row.probe.conv if row.probe else None,
        "drift": drift.rel_l2 if drift else None,
        "gradient_drift": drift.grad_rel_l2 if drift else None,
        "nans": drift.nans if drift else None,
        "infs": drift.infs if drift else None,
        "first_bad_module": drift.first_bad if drift else None,
        "top1_agreeing": drift.top1[0] if drift and drift.top1 else None,
        "top1_samples": drift.top1[1] if drift and drift.top1 else None,
        "steps": row.steps,
        "skipped_steps": row.skipped if row.precision.scaler and row.mode == "train" else None,
        "joules_per_sample": row.joules,
        **_gpu("start", row.before),
        **_gpu("end", row.after),
    }


def _gpu(when: str, state: Any) -> dict[str, Any]:
    if state is None:
        return {}
    return {
        f"sm_clock_mhz_{when}": state.sm_clock_mhz,
        f"temperature_c_{when}": state.temperature_c,
        f"power_w_{when}": state.power_w,
        f"throttle_{when}": ", ".join(state.throttle),
    }


def _section(group: Group) -> Section:
    """The rows of one mode and batch as people read them."""
    shown = Table.of([_shown(row) for row in group.rows])
    unused = [column for column in _OPTIONAL if set(shown[column]) <= {None}]
    note = f"speed-up over {group.base.precision.label}, interleaved rounds; latency is the median of a step"
    switches = {switch for row in group.rows for switch in row.precision.switches}
    if "compile" in switches:
        note += "; the drift of a compiled row is its own, that of its layers the eager model's"
    if "cuda_graph" in switches:
        note += "; drift is that of the kernels that a CUDA graph records"
    return Section(f"{group.mode}, batch {group.batch}", shown.drop(*unused), f"({note})")


def _shown(row: Row) -> dict[str, Any]:
    drift = row.drift
    return {
        "precision": row.precision.label,
        "latency": row.latency,
        "low": row.interval.low if row.interval else None,
        "high": row.interval.high if row.interval else None,
        "p99": row.p99,
        "samples/s": row.rate,
        "speed-up": "absent" if row.absent else _speedup(row),
        "allocated": row.allocated,
        "reserved": row.reserved,
        "first call": row.warm.first if "compile" in row.precision.switches and row.warm else None,
        "TFLOP/s": row.tflops,
        "of peak": row.fraction,
        "joules": row.joules,
        "drift": drift.rel_l2 if drift else None,
        "gradients": drift.grad_rel_l2 if drift else None,
        "top-1": f"{drift.top1[0]} of {drift.top1[1]}" if drift and drift.top1 else None,
    }


def _speedup(row: Row) -> str:
    """1.83x (1.80 to 1.86), or that no difference can be claimed."""
    if row.speedup is None or row.speedup_interval is None:
        return ""
    low, high = row.speedup_interval.low, row.speedup_interval.high
    if not claimed(row.speedup_interval):
        return f"no difference ({low:.2f} to {high:.2f})"
    return f"{row.speedup:.2f}x ({low:.2f} to {high:.2f})"


def _drifts(rows: list[Row]) -> list[tuple[Row, Drift]]:
    """Each drift of layers once: that of a mode and precision is the same at every batch, and compiled."""
    first: dict[tuple[Any, ...], tuple[Row, Drift]] = {}
    for row in rows:
        if row.drift is not None:
            layout = "channels_last" in row.precision.switches
            first.setdefault((row.mode, row.precision.kind, layout), (row, row.drift))
    return list(first.values())


def _drift_frame(rows: list[Row]) -> Table:
    """Drift by module, once for each mode and precision."""
    return Table.of(
        [
            {"mode": row.mode, "precision": row.precision.name, "kind": kind, **vars(part)}
            for row, drift in _drifts(rows)
            for kind, parts in (("output", drift.modules), ("gradient", drift.grads))
            for part in parts
        ]
    )


def _rounds(rows: list[Row]) -> Table:
    """The raw times: each sample of each round, in seconds."""
    return Table.of(
        [
            {"mode": r.mode, "batch": r.batch, "precision": r.precision.name, "round": number, "seconds": s}
            for r in rows
            for number, visit in enumerate(r.visits)
            for s in visit.samples
        ]
    )


def _worst(rows: list[Row]) -> list[Section]:
    records = [
        {
            "mode": row.mode,
            "precision": row.precision.label,
            "module": part.module,
            "type": part.type,
            "drift": part.rel_l2,
        }
        for row, drift in _drifts(rows)
        if row.precision.kind != "fp32"
        for part in drift.worst[:WORST]
    ]
    note = "(relative L2 distance of the module's output from float64, including the error of its input)"
    return [Section("layers that drift most", Table.of(records), note)] if records else []


def _metrics(rows: list[Row]) -> dict[str, Metric]:
    """One of each kind for each row, for comparison by other commands; the tables show them."""
    named: dict[str, Metric] = {}
    for row in rows:
        if row.absent:
            continue
        values = {
            "latency": row.latency,
            "samples_per_second": row.rate,
            "drift": row.drift.rel_l2 if row.drift else None,
            **({} if row.allocated is None else {"peak_allocated": row.allocated}),
            "macs": row.macs,
        }
        named |= metrics({f"{row.name}/{name}": value for name, value in values.items()})
    return named


def charts(table: Table) -> list[Chart]:
    """Throughput by precision, and what a speed-up costs in drift."""
    frame = table.assign(
        where=[f"{mode}, batch {batch}" for mode, batch in zip(table["mode"], table["batch"])],
        rate_low=_rates(table["batch"], table["latency_high"]),
        rate_high=_rates(table["batch"], table["latency_low"]),
    )
    return [
        Chart(
            "bar",
            "throughput (samples/s, 95% interval)",
            "precision",
            "samples_per_second",
            frame,
            group="where",
            low="rate_low",
            high="rate_high",
        ),
        Chart(
            "scatter",
            "speed-up against drift from float64",
            "drift",
            "speedup",
            frame,
            group="where",
            low="speedup_low",
            high="speedup_high",
            label="precision",
            log_x=True,
        ),
    ]


def _rates(batches: list[int], seconds: list[float | None]) -> list[float | None]:
    return [batch / time if time else None for batch, time in zip(batches, seconds)]
