"""The report of a training run: its checks, its loss, its speed."""

from __future__ import annotations

import math
import statistics
from functools import reduce
from operator import getitem
from typing import Any

import torch

from inspector.core.config import keys
from inspector.distributed.checks import Case, examined
from inspector.distributed.job import Job
from inspector.distributed.launch import Group, Outcome
from inspector.distributed.solver import amp_dtype
from inspector.reporting.report import Chart, Metric, Report, Section, environment, metrics
from inspector.reporting.tables import Table

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Steps that the curve on a terminal shows."""


def report(job: Job, ranks: list[dict[str, Any]], outcome: Outcome | None, group: Group) -> Report:
    """What the ranks saw, judged; `outcome` is how their processes ended (None: not ours to start)."""
    node = job.settings
    findings = examined(Case(job, ranks, outcome))
    steps = _steps(ranks)
    validations = Table.of(ranks[0]["after"]["validations"] if ranks and "after" in ranks[0] else [])
    failed = any(finding.status == "fail" for finding in findings)
    world = len(ranks) or group.nproc * group.nnodes
    tables = {"steps": steps, "validations": validations, "config": _config(job)}
    return Report(
        command="ddp",
        subject={
            "name": job.model,
            "source": "ddp",
            "inputs": job.inputs,
            "phase": "train",
            "device": job.device,
        },
        environment=_environment(job, world),
        metrics=_metrics(ranks, steps, node, world),
        tables={name: frame for name, frame in tables.items() if len(frame)},
        findings=findings,
        verdict="fail" if failed or not ranks else "pass",
        header=_header(job, node, ranks, world),
        sections=_sections(steps, validations),
        charts=charts(steps) if len(steps) else [],
    )


def _steps(ranks: list[dict[str, Any]]) -> Table:
    after = [rank["after"] for rank in ranks if "after" in rank]
    if not after or len(after) < len(ranks):
        return Table({})
    start = ranks[0].get("resumed_at") or 0
    rows = zip(*(part["losses"] for part in after))
    return Table.of(
        [
            {
                "step": start + number,
                "loss": sum(losses) / len(losses),
                "seconds": max(part["seconds"][number - 1] for part in after),
                "lr": after[0]["rates"][number - 1][0],
            }
            for number, losses in enumerate(rows, 1)
        ]
    )


def _config(job: Job) -> Table:
    rows = [(key, str(reduce(getitem, key.split("."), job.settings))) for key in keys(job.settings)]
    return Table.of(rows, ("key", "value"))


def _metrics(ranks: list[dict[str, Any]], steps: Table, node: Any, world: int) -> dict[str, Metric]:
    if not len(steps):
        return {}
    middle = statistics.median(steps["seconds"])
    size = node.DATA.BATCH * node.SOLVER.ACCUMULATE
    values = {
        "final_loss": steps["loss"][-1],
        "step_seconds": middle,
        "samples_per_second": size * world / middle,
        "training_seconds": ranks[0]["busy"],
    }
    alone = ranks[0].get("bare_seconds")
    if alone:
        values["scaling_efficiency"] = alone * node.SOLVER.ACCUMULATE / middle
    return metrics(values)


def _environment(job: Job, world: int) -> dict[str, Any]:
    on_gpu = job.device == "cuda" and torch.cuda.is_available()
    return environment(
        gpu=torch.cuda.get_device_name(0) if on_gpu else None,
        world_size=world,
        seed=job.seed,
        backend="nccl" if on_gpu else "gloo",
    )


def _header(job: Job, node: Any, ranks: list[dict[str, Any]], world: int) -> list[tuple[str, str]]:
    solver = node.SOLVER
    lines = [
        ("model", job.model),
        ("input", f"{', '.join(job.inputs)} on each of {world} processes ({job.device})"),
    ]
    if ranks and "before" in ranks[0]:
        lines.append(("data", ranks[0]["before"]["data"]))
        units = [unit for unit in ranks[0]["before"].get("units", []) if unit]
        if node.DDP.SHARD == "fsdp":
            lines.append(("sharding", f"FSDP2, {len(units)} units and the rest: {_few(units)}"))
    rule = f"{solver.OPTIMIZER}, rate {solver.BASE_LR:g} (biases {solver.BASE_LR * solver.BIAS_LR_FACTOR:g})"
    rule += f", decay {solver.WEIGHT_DECAY:g} (biases {solver.WEIGHT_DECAY_BIAS:g}), ReduceLROnPlateau"
    lines.append(("optimizer", rule))
    steps = f"{solver.STEPS} of {solver.ACCUMULATE} x {node.DATA.BATCH} samples on each process"
    dtype = amp_dtype(node.AMP, job.device)
    lines.append(("steps", steps + (f", autocast to {str(dtype)[6:]}" if dtype else "")))
    if node.OUTPUT_DIR:
        lines.append(("output", str(node.OUTPUT_DIR)))
    return lines


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _sections(steps: Table, validations: Table) -> list[Section]:
    sections = []
    if len(steps):
        losses = list(steps["loss"])
        curve = Table.of(
            [{"training loss": sparkline(losses), "first": f"{losses[0]:.3f}", "last": f"{losses[-1]:.3f}"}]
        )
        sections.append(Section(f"loss over {len(losses)} steps", curve))
    if len(validations):
        shown = validations.select(("step", "loss", "accuracy"))
        shown = shown.assign(loss=[f"{value:.4f}" for value in validations["loss"]])
        sections.append(Section("validation (all ranks together)", shown))
    return sections


def charts(steps: Table) -> list[Chart]:
    """The loss over the steps."""
    return [Chart("line", "training loss", "step", "loss", steps)]


def sparkline(values: list[float]) -> str:
    """The values as a row of bars, the largest full; NaN and infinity are marked with an x."""
    many = len(values)
    picked = values if many <= WIDTH else [values[round(i * (many - 1) / (WIDTH - 1))] for i in range(WIDTH)]
    finite = [value for value in picked if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    span = (high - low) or 1.0
    bars = ["x" if not math.isfinite(v) else BARS[round((v - low) / span * (len(BARS) - 1))] for v in picked]
    return "".join(bars)
