"""Latency of one forward pass, for the rows of a regression table."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from inspector.benchmarking.timing import Clock, clock_of, warm_up
from inspector.core.errors import InspectError
from inspector.models import Subject, as_recipe
from inspector.models.inputs import Inputs, as_inputs
from inspector.models.serving import PHASES
from inspector.profiling import flags
from inspector.regress.sweep.row import Entry

VISIT_SECONDS = 0.2
"""About how long a visit repeats the step."""
MOST_CALLS = 200
LEAST_CALLS = 3
WARM_UP_SECONDS = 2.0
PRECISION = "ieee"
"""How float32 products round in a table's times: the same on every machine."""


@dataclass
class Live:
    """A model that is being measured: `calls` of its step make a visit."""

    name: str
    step: Callable[[], Any]
    clock: Clock
    calls: int = LEAST_CALLS
    rounds: list[dict[str, Any]] = field(default_factory=list)


def live(entry: Entry, device: str, seed: int, clock: Clock | None = None) -> Live:
    """Build the entry's model on `device`, warm it up, and fit the calls of a visit. A GPU's clock holds a
    buffer: one `clock` is enough for all models."""
    if entry.phase in PHASES:
        raise InspectError(f"the time of a {entry.phase} is not measured", f"take {entry.name} out")
    inputs: Inputs | None = None if entry.inputs is None else as_inputs(list(entry.inputs))
    subject = Subject.make(
        as_recipe(entry.spec, entry.model_args, entry.call), device, inputs, "forward", seed
    )
    model = subject.model.eval()

    def step() -> Any:
        with torch.inference_mode():
            return model(*subject.args, **subject.kwargs)

    clock = clock or clock_of(device)
    with flags.precision(PRECISION):
        warm_up(step, clock, limit_s=WARM_UP_SECONDS)
        each = min(clock.once(step) for _ in range(LEAST_CALLS))
    calls = min(max(round(VISIT_SECONDS / each), LEAST_CALLS), MOST_CALLS) if each > 0 else MOST_CALLS
    return Live(entry.name, step, clock, calls)


def rounds(models: Sequence[Live], count: int, tell: Callable[[int], None] = lambda number: None) -> None:
    """Visit every model once in each of `count` rounds, in turn."""
    job = job_id()
    for number in range(count):
        for model in models if number % 2 == 0 else models[::-1]:
            start, cpu = time.time(), time.process_time()
            with flags.precision(PRECISION):
                visit = model.clock.visit(model.step, model.calls)
            cpu = (time.process_time() - cpu) / visit.calls
            model.rounds.append(
                {
                    "model": model.name,
                    "start": start,
                    "seconds": median(visit.samples),
                    "cpu_seconds": cpu if visit.device is None else None,
                    "samples": len(visit.samples),
                    "job": job,
                }
            )
        tell(number + 1)


def job_id() -> str:
    """Names this job on this machine since its start, without naming the machine."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    run = [os.environ.get(name, "") for name in ("GITHUB_RUN_ID", "GITHUB_RUN_ATTEMPT", "GITHUB_JOB")]
    text = "\n".join([platform.node(), boot, *run, os.environ.get("CI_JOB_ID", "")])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
