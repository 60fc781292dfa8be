"""`inspect llm`: what it would take to serve a language model on a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from inspector.core import devices
from inspector.core.devices import Device
from inspector.core.errors import InspectError
from inspector.models import Model, Recipe, as_recipe
from inspector.profiling.views.serving import serving
from inspector.profiling.weights import scheme
from inspector.reporting.registry import quantity
from inspector.reporting.report import Chart, Finding, Report, Section, environment, metrics
from inspector.reporting.tables import Table
from inspector.serving.measured import Machine, Run
from inspector.serving.points import Service
from inspector.tracing.record import Trace

BATCHES = (1, 4, 16, 64, 256)
RESERVE = 0.1
"""The share of a device's memory that servers leave free: vLLM's gpu_memory_utilization is 0.9."""
CONTEXT = 8192
DEFAULT = "h100"
_BOUNDS = (
    "times are lower bounds, rates upper bounds, of the model's operators one by one at the device's peak or"
    " bandwidth: attention is one kernel and the cache is appended to in place, nothing else is fused"
)
_BALANCED = (
    "tokens are taken to spread evenly over the experts: a step then reads as many of them as so many tokens"
    " can reach, the most that any routing reads"
)


def llm(
    model: Model,
    *,
    gpu: str | None = None,
    device_file: str | Path | None = None,
    context: int = CONTEXT,
    batch: Sequence[int] | None = None,
    dtype: str | None = None,
    weights: str | None = None,
    reserve: float = RESERVE,
    measure: bool = False,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Report:
    """What it takes to serve the language model `model` on one `gpu`, for several batches.

    model: a causal language model of transformers ("hf:DIR", "hf:ORG/NAME"), or an nn.Module of it.
    gpu: a device by its name, of inspector/core/devices.py or of `device_file` (YAML: name, peaks in TFLOP/s,
        bandwidth in GB/s, memory in GiB). Without it the H100 SXM, or the GPU that is measured.
    context: tokens of each sequence's prompt. batch: the numbers of sequences (1, 4, 16, 64, 256).
    dtype: of weights and cache; the configuration's own without it. weights: in fewer bits, without building
        them: "int8", "fp8", "int4", "nf4" or "gptq" ("int4:group=64"), for the Linear layers and experts of
        the blocks; a kernel widens them as it reads, and products run in `dtype`. "w8a8" and "w8a8-fp8" have
        activations and products in 8 bits as well.
    reserve: the share of the device's memory that stays free, from 0 to below 1.
    measure: also run the prefill of one sequence and some decode steps of each batch on this machine's
        accelerator or CPU, by the model's own code with random weights: column measured (tokens a second, of
        the median step), and of_bound where that is the device of the bounds.

    Table `points`, a row for each batch: fits, needed (bytes: weights, cache, working: activations,
    workspaces, the CUDA context), tokens_per_second (an upper bound), bound ("memory" or "compute"),
    longest_context (tokens of each sequence that fit). Metric time_to_first_token is a lower bound in
    seconds, of one prompt on an idle device. Raises InspectError for a model that keeps no cache.
    """
    if not 0 <= reserve < 1:
        raise InspectError(f"a reserve of {reserve} is no share", "use e.g. `reserve=0.1`")
    batches = sorted(set(batch if batch is not None else BATCHES))
    if not batches or batches[0] < 1:
        raise InspectError("a batch holds 1 sequence or more", "use e.g. `batch=[1, 8, 64]`")
    choices = devices.read(device_file) if device_file is not None else devices.DEVICES
    recipe = as_recipe(model, model_args)
    machine = _machine(recipe, context, dtype, seed, weights) if measure else None
    listed = machine.listed if machine is not None and gpu is None and device_file is None else None
    device = listed or devices.named(gpu or DEFAULT, choices)
    kept = scheme(weights) if weights else None
    if kept is not None and kept.peak is not None and kept.peak not in device.peaks:
        raise InspectError(
            f"no peak of {kept.peak} products is known of {device.name}", 'use `weights="int8"`'
        )
    room = None if device.memory is None else int(device.memory * 2**30 * (1 - reserve))
    service = Service(recipe, device, context, room, dtype, seed, kept)
    limit = _longest_made_for(recipe.build("meta"))
    tell("prefill", 0.0)
    prompt, rows = service.prompt, []
    for number, size in enumerate(batches):
        tell(f"decode, {size} sequences", (number + 1) / (len(batches) + 1))
        rows.append(service.point(size, limit))
    report = _report(service, prompt, Table.of(rows), reserve)
    if limit is not None and context > limit:
        text = (
            f"the model is made for {limit:,} tokens (max_position_embeddings), fewer than the context of"
            f" {context:,}: it may not work beyond them"
        )
        report.findings.append(Finding("serving", "warn", "", text))
    return report if machine is None else with_measured(report, machine.run(batches, tell), device)


def _machine(recipe: Recipe, context: int, dtype: str | None, seed: int, weights: str | None) -> Machine:
    if weights is not None:
        raise InspectError(
            "weights in fewer bits are simulated, and cannot be measured so",
            "leave `weights=` or `measure=` out, or pass a model that a library has quantised",
        )
    return Machine(recipe, context, dtype, seed)


_SHORT = {"tokens_per_second": "tokens/s", "tokens_per_second_each": "each", "longest_context": "longest",
          "measured_tokens_per_second": "measured"}  # fmt: skip


def with_measured(report: Report, run: Run, device: Device) -> Report:
    """The report with what this machine measured beside the bounds, which are those of `device`."""
    points, same = report.tables["points"], run.machine.listed == device
    rates = [decode.rate(batch) for batch, decode in run.decodes.items()]
    points = points.assign(measured_tokens_per_second=rates)
    if same:
        bounds = zip(rates, points["tokens_per_second"])
        points = points.assign(of_bound=[rate and rate / bound for rate, bound in bounds])
    note = (
        f"measured on {run.machine.place}, by the model's own forward with random weights: no server's"
        " kernels, no CUDA graph"
    )
    findings = [Finding("measure", "warn", "", note)]
    findings += [
        Finding("measure", "skip", name, f"not measured: {one.why}")
        for name, one in (("first token", run.first), *((f"batch {n}", d) for n, d in run.decodes.items()))
        if one.seconds is None
    ]
    measured = {} if run.first.seconds is None else {"measured_time_to_first_token": run.first.seconds}
    return replace(
        report,
        metrics={**report.metrics, **metrics(measured)},
        tables={"points": points},
        findings=[*report.findings, *findings],
        sections=[_section(points)],
    )


def _section(points: Table) -> Section:
    """What people read of the points. Weights are the same in each row: the metrics say them."""
    shown = points.drop("weights").rename(_SHORT)
    note = "tokens/s: at most, of all sequences; each: of one; longest: the context of each that fits"
    if "measured_tokens_per_second" in points:
        note += "; measured: tokens/s here"
    return Section("batch by batch", shown, note, {short: quantity(name) for name, short in _SHORT.items()})


def _weights(service: Service, prompt: Trace) -> list[tuple[str, str]]:
    """What was quantised, and what stays."""
    if service.weights is None:
        return []
    state = [entry for entry in prompt.state if entry.kind == "parameter"]
    fewer = sum(entry.numel for entry in state if entry.stored)
    share = fewer / sum(entry.numel for entry in state)
    text = (
        f"{service.weights} for {share:.1%} of the parameters ({service.weights.source}); others as they are"
    )
    return [("weights", text)]


def _longest_made_for(model: Any) -> int | None:
    """Positions that the configuration gives as the most."""
    config = getattr(model, "config", None)
    text: Any = config.get_text_config() if config is not None else None
    most = getattr(text, "max_position_embeddings", None)
    return most if isinstance(most, int) else None


def _report(service: Service, prompt: Trace, points: Table, reserve: float) -> Report:
    device, numbers = service.device, serving(prompt)
    first = service.seconds(prompt)["seconds"]
    fitting = points.where(fits is True for fits in points["fits"])
    compute = points.where(bound == "compute" for bound in points["bound"])
    state = [entry for entry in prompt.state if entry.kind == "parameter"]
    values: dict[str, Any] = {
        "params": sum(entry.numel for entry in state),
        "active_params": numbers["active_params"],
        "param_bytes": sum(entry.nbytes for entry in state),
        "cache_bytes_per_token": numbers["cache_bytes_per_token"],
        "time_to_first_token": first,
        "max_batch": max(fitting["batch"], default=None),
        "tokens_per_second": max(fitting["tokens_per_second"], default=None),
        "compute_bound_batch": min(compute["batch"], default=None),
    }
    memory = "memory not known" if service.room is None else f"{device.memory:g} GiB, {reserve:.0%} kept free"
    notes = [_BOUNDS]
    if any(op.name.endswith(("_grouped_mm", "grouped_mm_fallback")) for op in prompt.ops):
        notes.append(_BALANCED)
    notes += prompt.notes
    findings = [Finding("serving", "warn", "", note) for note in notes]
    if service.room is not None and not len(fitting):
        text = f"no batch of {', '.join(map(str, points['batch']))} fits on one {device.name}"
        findings.append(Finding("fits", "warn", "", text))
    return Report(
        command="llm",
        subject={**prompt.subject, "phase": "serving", "gpu": device.name, "context": service.context},
        environment=environment(seed=service.seed),
        metrics=metrics({name: value for name, value in values.items() if value is not None}, set()),
        tables={"points": points},
        findings=findings,
        header=[
            ("model", f"{prompt.model} ({prompt.source})"),
            ("device", f"{device.name}, {memory} ({device.source})"),
            *_weights(service, prompt),
            ("service", f"prompts of {service.context:,} tokens, one new token of each sequence a step"),
        ],
        sections=[_section(points)],
        charts=[
            Chart(
                "line", f"Tokens a second on {device.name}, at most", "batch", "tokens_per_second", points,
                log_x=True, log_y=True,
            )
        ],
    )  # fmt: skip
