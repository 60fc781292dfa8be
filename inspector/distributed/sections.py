"""The report of a training run: its checks, its loss, its speed."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

from inspector.core.config import parse
from inspector.distributed.checks import Evidence, examine
from inspector.distributed.job import Job
from inspector.distributed.launch import Group, Outcome
from inspector.distributed.solver import amp_dtype
from inspector.reporting.report import Chart, Finding, Metric, Report, Section, environment

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Steps that the curve on a terminal shows."""
FRAMES = 12
"""Lines of a stack that are shown."""


def report(job: Job, ranks: list[dict[str, Any]], outcome: Outcome | None, group: Group) -> Report:
    """What the ranks saw, judged; `outcome` is how their processes ended (None: not ours to start)."""
    node = parse(job.config)
    findings = list(_endings(outcome))
    if ranks:
        findings += examine(Evidence(ranks, _settings(node)))
        findings += _missing(job, ranks, outcome)
    steps, validations = _steps(ranks), _validations(ranks)
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


def _settings(node: Any) -> dict[str, Any]:
    return {
        "base_lr": node.SOLVER.BASE_LR,
        "bias_lr_factor": node.SOLVER.BIAS_LR_FACTOR,
        "weight_decay": node.SOLVER.WEIGHT_DECAY,
        "weight_decay_bias": node.SOLVER.WEIGHT_DECAY_BIAS,
        "find_unused": node.DDP.FIND_UNUSED,
    }


def _endings(outcome: Outcome | None) -> list[Finding]:
    """What went wrong with the processes: the first that failed, or the one that others wait for."""
    if outcome is None:
        return []
    found = []
    if outcome.stalled is not None:
        late = outcome.stalled
        rank, step = late["rank"], late.get("step")
        place = f"in {late['phase']!r}" + (f" after step {step}" if step is not None else "")
        why = "the deadline passed" if outcome.late else "no rank has moved any more"
        stack = outcome.stacks.get(rank, "").strip().splitlines()
        message = f"{why}; the last sign of life of rank {rank} came {place}: it holds up the others"
        evidence = {"stacks": outcome.stacks, "phase": late["phase"], "step": step}
        found.append(Finding("deadlock", "fail", f"rank {rank}", message, evidence))
        found += [Finding("deadlock", "fail", f"rank {rank}", line.strip()) for line in stack[:FRAMES]]
    for number, error in enumerate(outcome.errors[:1]):
        others = f"; {len(outcome.errors) - 1} other ranks failed after it" if len(outcome.errors) > 1 else ""
        step = f" after step {error['step']}" if error.get("step") is not None else ""
        message = f"raised in {error['phase']!r}{step}: {error['error']}{others}"
        lines = {"traceback": error["traceback"]}
        found.append(Finding("worker", "fail", f"rank {error['rank']}", message, lines))
        found += [Finding("worker", "fail", f"rank {error['rank']}", line) for line in error["traceback"]]
    if outcome.code != 0 and not found:
        codes = ", ".join(dict.fromkeys(outcome.exits)) or str(outcome.code)
        message = f"the processes ended with {codes} and left no traceback (a signal: out of memory?)"
        found.append(Finding("worker", "fail", "", message, {"exit_codes": outcome.exits}))
    return found


def _missing(job: Job, ranks: list[dict[str, Any]], outcome: Outcome | None) -> list[Finding]:
    """Checks that were not made, and why."""
    found = []
    first = ranks[0]
    if first.get("resumed_at") is not None:
        message = f"went on at step {first['resumed_at']}: the checks before the first step were not repeated"
        found.append(Finding("resumed", "warn", "", message))
    elif "after" in first and "resumed" not in first:
        message = "not checked: no checkpoint lies before the last step (see SOLVER.VALIDATE_EVERY)"
        found.append(Finding("resume", "skip", "", message))
    if "after" in first and "killed" not in first:
        found.append(Finding("killed", "skip", "", f"no worker was killed: {_why_none_killed(job, outcome)}"))
    if len(ranks) == 1:
        found.append(Finding("ranks", "warn", "", "one process: nothing can differ between ranks"))
    return found


def _why_none_killed(job: Job, outcome: Outcome | None) -> str:
    if outcome is None:
        return "nobody here would start it again"
    if job.kill:
        return "no checkpoint lies before the last step"
    return "this run was a resumed one" if job.resume else "not asked for, or not possible (see --kill)"


def _steps(ranks: list[dict[str, Any]]) -> pd.DataFrame:
    after = [rank["after"] for rank in ranks if "after" in rank]
    if not after or len(after) < len(ranks):
        return pd.DataFrame()
    start = ranks[0].get("resumed_at") or 0
    rows = zip(*(part["losses"] for part in after))
    return pd.DataFrame(
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


def _validations(ranks: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(ranks[0]["after"]["validations"] if ranks and "after" in ranks[0] else [])


def _config(job: Job) -> pd.DataFrame:
    from inspector.core.config import keys

    node = parse(job.config)

    def value(key: str) -> Any:
        found: Any = node
        for name in key.split("."):
            found = found[name]
        return found

    return pd.DataFrame([{"key": key, "value": str(value(key))} for key in keys(node)])


def _metrics(ranks: list[dict[str, Any]], steps: pd.DataFrame, node: Any, world: int) -> dict[str, Metric]:
    if not len(steps):
        return {}
    middle = float(steps["seconds"].median())
    size = node.DATA.BATCH * node.SOLVER.ACCUMULATE
    found = {
        "final_loss": Metric(float(steps["loss"].iloc[-1]), "rate", "toleranced", "lower"),
        "step_seconds": Metric(middle, "seconds", "noisy", "lower"),
        "samples_per_second": Metric(size * world / middle, "rate", "noisy", "higher"),
    }
    alone = ranks[0].get("bare_seconds")
    if alone:
        label = "scaling efficiency (report only)"
        share = alone * node.SOLVER.ACCUMULATE / middle
        found["scaling_efficiency"] = Metric(share, "share", "noisy", "higher", label=label)
    return found


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
    rule = f"{solver.OPTIMIZER}, rate {solver.BASE_LR:g} (biases {solver.BASE_LR * solver.BIAS_LR_FACTOR:g})"
    rule += f", decay {solver.WEIGHT_DECAY:g} (biases {solver.WEIGHT_DECAY_BIAS:g}), ReduceLROnPlateau"
    lines.append(("optimizer", rule))
    steps = f"{solver.STEPS} of {solver.ACCUMULATE} x {node.DATA.BATCH} samples on each process"
    dtype = amp_dtype(node.AMP, job.device)
    lines.append(("steps", steps + (f", autocast to {str(dtype)[6:]}" if dtype else "")))
    if node.OUTPUT_DIR:
        lines.append(("output", str(node.OUTPUT_DIR)))
    return lines


def _sections(steps: pd.DataFrame, validations: pd.DataFrame) -> list[Section]:
    found = []
    if len(steps):
        losses = list(steps["loss"])
        curve = pd.DataFrame(
            [{"training loss": sparkline(losses), "first": f"{losses[0]:.3f}", "last": f"{losses[-1]:.3f}"}]
        )
        found.append(Section(f"loss over {len(losses)} steps", curve))
    if len(validations):
        shown = validations[["step", "loss", "accuracy"]].astype(object)
        shown = shown.assign(loss=[f"{value:.4f}" for value in validations["loss"]])
        found.append(
            Section("validation (all ranks together)", shown, {"step": "count", "accuracy": "share"})
        )
    return found


def charts(steps: pd.DataFrame) -> list[Chart]:
    """The loss over the steps."""
    return [Chart("line", "training loss", "step", "loss", steps)]


def sparkline(values: list[float]) -> str:
    """The values as a row of bars, the largest full; NaN and infinity are marked with an x."""
    many = len(values)
    picked = values if many <= WIDTH else [values[round(i * (many - 1) / (WIDTH - 1))] for i in range(WIDTH)]
    finite = [value for value in picked if value - value == 0]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    span = (high - low) or 1.0
    bars = ["x" if v - v != 0 else BARS[round((v - low) / span * (len(BARS) - 1))] for v in picked]
    return "".join(bars)
