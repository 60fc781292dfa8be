"""`inspect scale`: what each of many devices holds and sends in a step, and how fast that can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from inspector.core.devices import named
from inspector.core.errors import InspectError
from inspector.core.links import read_nodes
from inspector.core.naming import nearest
from inspector.footprint.blocks import CATEGORIES, PARALLEL
from inspector.footprint.question import DTYPES, parse_size
from inspector.models import Model
from inspector.models.subject import refuse_scripted
from inspector.reporting.registry import quantity
from inspector.reporting.report import Chart, Report, Section, environment, metrics
from inspector.reporting.tables import Table
from inspector.scaling import tensor_parallel, words
from inspector.scaling.child import Request
from inspector.scaling.communication import POINT_TO_POINT
from inspector.scaling.layout import OPTIMIZERS, Layout
from inspector.scaling.line import Whole, orders, simulate_line
from inspector.scaling.run import simulate
from inspector.scaling.search import found, limit_of
from inspector.tracing.capture.kernels import ATTENTION

_HELD = {
    "parameters_bytes": "parameters", "gradients_bytes": "gradients", "optimizer_state_bytes": "optimizer",
    "buffers_bytes": "buffers", "host_bytes": "on the host", "peak_allocated": "allocated",
    "peak_reserved": "reserved",
}  # fmt: skip
"""Columns of the table of ranks, as people read them."""
_QUANTITIES = {short: quantity(name) for name, short in _HELD.items()}
_OF_LINE = {"busy": quantity("step_bound"), "blocks": quantity("place")}
_TOP = 16


def scale(
    model: Model,
    mesh: str | Mapping[str, int] | None = None,
    inputs: Any = None,
    *,
    shard: str | None = None,
    batch: int | None = None,
    phase: str = "train",
    optimizer: str | None = None,
    amp: bool = False,
    dtype: str | None = None,
    param_dtype: str | None = None,
    reduce_dtype: str | None = None,
    reshard: bool = True,
    wrap: Sequence[str] = (),
    checkpoint_activations: Sequence[str] = (),
    accumulate: int = 1,
    offload: bool = False,
    sequence_parallel: bool = False,
    schedule: str | None = None,
    microbatches: int | None = None,
    stages_per_rank: int | None = None,
    tp_plan: str | Path | None = None,
    attention: str = "fused",
    gpu: str | None = None,
    nodes: str | None = None,
    network: float | None = None,
    fits: str | int | None = None,
    ranks: Sequence[int] | None = None,
    search: bool = False,
    gpus: int | None = None,
    model_args: Mapping[str, Any] | None = None,
    call: str | None = None,
    seed: int = 0,
    tell: Callable[[str, float], None] = lambda what, share: None,
) -> Report:
    """Simulate a step of `model` on a mesh of devices, rank by rank, without any of them.

    model: a spec, or an nn.Module whose class another process can import.
    mesh: the sizes of its dimensions, "dp=8,pp=4,tp=8" or a mapping: dp (batches, and parameters under
        FSDP), replicate (of hsdp), tp (tensor parallelism), pp (stages of a pipeline). Ranks are numbered
        with tp next to each other, and those of a pipeline furthest apart.
    schedule: of the pipeline: "gpipe", "1f1b" (default), "interleaved" with `stages_per_rank` (2).
        microbatches: parts of a batch; without them one for each sample.
    shard: "ddp", "zero1", "zero2", "fsdp" (default), "hsdp". `reshard`: free parameters after the forward.
        `wrap`: globs of the modules that FSDP2 gathers as one; without them the blocks of the model.
    inputs, batch, phase, optimizer (sgd, momentum, adam, adamw), amp, dtype, attention, call, seed: as
        `inspector.memory` takes them. `batch` is that of each data-parallel rank.
    offload: FSDP2 keeps parameters, gradients and the optimizer's state on the host.
    param_dtype, reduce_dtype: FSDP2's mixed precision. checkpoint_activations: globs of modules that are
        computed again. accumulate: batches a step.
    sequence_parallel: between the modules of the plan each rank of tp has a part of the sequence.
    tp_plan: a YAML file of styles by module; None takes the plan that a model of transformers brings.
    gpu, nodes, network: the device, nodes x devices ("8x8"), GB/s between nodes for each device: adds bounds
        of the step's time. fits: bytes that a device has, or "80GB". ranks: to simulate; first and last.

    search, gpus: in place of a mesh, try those of so many devices, and sort them by what they can reach.

    Raises InspectError for what torch refuses, and for what the simulation cannot represent.
    """
    mesh = _mesh(mesh, search, gpus, gpu, shard, ranks)
    plan = tensor_parallel.read(tp_plan) if tp_plan is not None else None
    layout = Layout.of(
        mesh, shard, reshard=reshard, wrap=tuple(wrap), checkpoints=tuple(checkpoint_activations),
        accumulate=accumulate, offload=offload, sequence=sequence_parallel, param_dtype=param_dtype,
        reduce_dtype=reduce_dtype, plan=plan,
        **Layout.pipelined(mesh, schedule, microbatches, stages_per_rank),
    )  # fmt: skip
    _check(layout, phase, optimizer, dtype, attention, gpu, nodes, network)
    if isinstance(model, nn.Module):
        refuse_scripted(model)
    request = Request(
        model, dict(model_args or {}), call, inputs, batch, layout,
        None if phase == "forward" else optimizer or "sgd", amp, dtype, attention, seed, gpu,
        read_nodes(nodes) if nodes is not None else None, network,
        ("optimizer",) if optimizer is None else (),
    )  # fmt: skip
    machine = request.machine()
    if machine is not None and gpus is not None:
        return found(request, gpus, limit_of(fits, machine), tell)
    chosen = _ranks(ranks, layout.world_size)
    limit = parse_size(fits) if fits is not None else None
    if layout.pipeline > 1:
        answers, whole = simulate_line(request, None if ranks is None else chosen, tell)
        return _report(request, answers, limit, whole)
    return _report(request, simulate(request, chosen, tell), limit)


def _mesh(
    mesh: str | Mapping[str, int] | None, search: bool, gpus: int | None, gpu: str | None, shard: str | None,
    ranks: Sequence[int] | None,
) -> str | Mapping[str, int]:  # fmt: skip
    """The mesh that is asked for; for a search, that of data parallelism alone."""
    if not search:
        if gpus is not None:
            raise InspectError("`gpus=` belongs to a search", "add `search=True`, or leave it out")
        if mesh is None:
            raise InspectError("no mesh is given", 'pass e.g. `mesh="dp=64,tp=8"`, or `search=True`')
        return mesh
    if mesh is not None or shard is not None or ranks is not None:
        raise InspectError("a search chooses mesh and sharding", "leave `mesh=`, `shard=` and `ranks=` out")
    if gpu is None or gpus is None or gpus < 1:
        raise InspectError("a search needs a device and how many", 'pass e.g. `gpu="h100"` and `gpus=64`')
    return {"dp": gpus}


def _check(
    layout: Layout, phase: str, optimizer: str | None, dtype: str | None, attention: str, gpu: str | None,
    nodes: str | None, network: float | None,
) -> None:  # fmt: skip
    if phase not in ("forward", "train"):
        raise InspectError(f"unknown phase {phase!r}", "use one of: forward, train")
    if phase == "forward" and layout.pipeline > 1:
        raise InspectError("a pipeline is simulated in training", 'use `phase="train"`')
    if phase == "forward" and (optimizer or layout.checkpoints or layout.accumulate > 1):
        raise InspectError(
            "an optimizer, recomputation and accumulation belong to training", 'add `phase="train"`'
        )
    if optimizer is not None and optimizer not in OPTIMIZERS:
        hint = nearest(optimizer, OPTIMIZERS, f"simulated are: {', '.join(OPTIMIZERS)}")
        raise InspectError(f"the optimizer {optimizer!r} is not simulated", hint)
    if dtype is not None and dtype not in DTYPES:
        raise InspectError(f"unknown dtype {dtype!r}", f"use one of: {', '.join(DTYPES)}")
    if attention not in ATTENTION:
        raise InspectError(f"unknown attention {attention!r}", f"use one of: {', '.join(ATTENTION)}")
    if gpu is None and (nodes is not None or network is not None):
        raise InspectError("`nodes=` and `network=` give times of a device", 'add `gpu="h100"`')
    if network is not None and not network > 0:
        raise InspectError(f"a network of {network} GB/s sends nothing", "use e.g. `network=50`")


def _ranks(ranks: Sequence[int] | None, world_size: int) -> list[int]:
    chosen = sorted({0, world_size - 1} if ranks is None else set(ranks))
    wrong = next((rank for rank in chosen if not 0 <= rank < world_size), None)
    if wrong is not None or not chosen:
        raise InspectError(f"there is no rank {wrong} among {world_size}", "ranks count from 0")
    return chosen


def _report(
    request: Request, answers: list[dict[str, Any]], limit: int | None, whole: Whole | None = None
) -> Report:
    """The report: a pure function of what was asked and simulated."""
    fullest = max(answers, key=lambda answer: answer["peak_allocated"])
    tables = {
        "ranks": Table.of([_row(answer) for answer in answers]),
        "collectives": _frame(
            fullest["collectives"], "collective over processes calls nbytes sent link seconds"
        ),
        "peak": _peak(fullest),
        "communication": _frame(fullest["by_module"], "module collective over calls nbytes sent"),
        "timeline": _timeline(fullest),
        **_line_tables(answers, fullest, whole),
    }
    findings = [*words.fits(fullest, limit), *words.remarks(request, fullest, whole)]
    verdict = "none" if limit is None else "fail" if findings[0].status == "fail" else "pass"
    modules = tables["communication"].sort(lambda row: -row["nbytes"])
    model = f"({fullest['name']} itself)"
    shown = modules.assign(module=[path or model for path in modules["module"]])
    sections = [
        Section("what each rank holds", tables["ranks"].rename(_HELD), "", _QUANTITIES),
        Section("the pipeline", tables.get("pipeline", Table({})), "", _OF_LINE),
        Section(f"sent along the pipeline (rank {fullest['rank']})", tables.get("peers", Table({}))),
        Section(f"collectives of a step (rank {fullest['rank']})", _shown(tables["collectives"])),
        Section(f"composition of the peak (rank {fullest['rank']})", tables["peak"]),
        Section("communication by module", shown.head(_TOP), _more(len(shown))),
    ]
    return Report(
        command="scale",
        subject=_subject(request, fullest),
        environment=environment(seed=request.seed),
        metrics=metrics(_metrics(fullest, whole)),
        tables=tables,
        findings=findings,
        verdict=verdict,
        header=words.header(request, fullest, _loss(answers)),
        sections=[section for section in sections if len(section.frame)],
        charts=[_chart(tables["timeline"])],
    )


def _loss(answers: list[dict[str, Any]]) -> str:
    """What the backward starts from: in a pipeline the last rank knows."""
    return next((answer["loss"] for answer in answers if answer["loss"] != "none"), "none")


def _more(rows: int) -> str:
    return f"the largest {_TOP} of {rows}" if rows > _TOP else ""


def _frame(rows: list[dict[str, Any]], columns: str) -> Table:
    return Table.of(rows, columns.split())


def _shown(collectives: Table) -> Table:
    """Without the columns of times where no device was named."""
    return collectives if any(collectives["link"]) else collectives.drop("link", "seconds")


def _row(answer: dict[str, Any]) -> dict[str, Any]:
    held = {name.replace(" ", "_"): nbytes for name, nbytes in answer["held"].items()}
    place = ",".join(f"{name}={at}" for name, at in answer["place"].items())
    names = {f"{name}_bytes": nbytes for name, nbytes in held.items()}
    peaks = {name: answer[name] for name in ("peak_allocated", "peak_reserved")}
    host = {"host_bytes": answer["host"]} if answer["host"] else {}
    return {"rank": answer["rank"], "place": place, **names, **host, **peaks}


def _peak(answer: dict[str, Any]) -> Table:
    whole = answer["peak_allocated"] or 1
    parts = {name: answer["peak"].get(name, 0) for name in (*CATEGORIES, *PARALLEL)}
    rows = [(name, nbytes, nbytes / whole) for name, nbytes in parts.items() if nbytes]
    return Table.of(rows, ("category", "bytes", "share"))


def _timeline(answer: dict[str, Any]) -> Table:
    names = (*CATEGORIES, *PARALLEL)
    rows = [{**dict.fromkeys(names, 0), **row} for row in answer["timeline"]]
    return Table.of(rows, ("at", "phase", "module", "operator", "bytes", *names))


def _subject(request: Request, answer: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": answer["name"],
        "source": answer["source"],
        "inputs": answer["inputs"],
        "phase": "forward" if request.optimizer is None else "train",
        "device": "fake",
        "mesh": request.layout.text,
        "shard": request.layout.shard,
        "ranks": request.layout.world_size,
        **({"gpu": named(request.gpu).name} if request.gpu is not None else {}),
    }


def _line_tables(
    answers: list[dict[str, Any]], fullest: dict[str, Any], whole: Whole | None
) -> dict[str, Table]:
    """Of a pipeline: what each place in it does, and what the fullest rank sends to its neighbours."""
    if whole is None:
        return {}
    stages, order = fullest["pipeline"]["stages"], orders(fullest)
    line, rows = whole.played, []
    for place, actions in enumerate(order):
        own = sorted({action.stage for action in actions})
        busy = line.busy[place] if line is not None else None
        stands = whole.stands[place]
        rows.append({
            "place": f"pp={place}", "blocks": ", ".join(stages[stage] for stage in own),
            "in_flight": whole.in_flight[place],
            "simulated": "" if stands == place else f"as pp={stands}",
            "busy": busy, "idle": None if busy is None or line is None else 1 - busy / line.seconds,
        })  # fmt: skip
    columns = "place blocks in_flight simulated".split() + (["busy", "idle"] if line is not None else [])
    return {
        "pipeline": Table.of(rows, columns),
        "peers": _frame(fullest["peers"], "peer collective calls nbytes"),
    }


def _metrics(answer: dict[str, Any], whole: Whole | None) -> dict[str, Any]:
    held, every = answer["held"], answer["collectives"]
    rows = [row for row in every if row["collective"] not in POINT_TO_POINT]
    sends = [row for row in every if row["collective"] == "send"]
    values: dict[str, Any] = {
        "param_bytes_per_rank": held["parameters"],
        "gradient_bytes_per_rank": held["gradients"],
        "optimizer_bytes_per_rank": held["optimizer state"],
        "peak_allocated": answer["peak_allocated"],
        "peak_reserved": answer["peak_reserved"],
        "collectives": sum(row["calls"] for row in rows),
        "collective_bytes": sum(row["nbytes"] for row in rows),
        "sent_bytes": sum(row["sent"] for row in every),
    }
    if answer["host"]:
        ways = answer["copies"]
        values |= {
            "host_bytes_per_rank": answer["host"],
            "to_device_bytes": ways["to the device"][1],
            "to_host_bytes": ways["to the host"][1],
        }
    if whole is not None:
        values |= {
            "sends": sum(row["calls"] for row in sends),
            "send_bytes": sum(row["nbytes"] for row in sends),
            "in_flight": max(whole.in_flight),
        }
    bounds = answer["times"]
    if bounds is not None and whole is not None:
        values |= {
            "compute_seconds": bounds["compute"],
            "bubble": whole.played.bubble if whole.played is not None else None,
            "step_bound": whole.step,
            "mfu_bound": whole.mfu,
        }
    elif bounds is not None:
        values |= {
            "compute_seconds": bounds["compute"],
            "exposed_seconds": bounds["exposed"],
            "step_bound": bounds["step"],
            "mfu_bound": bounds["mfu"],
        }
    return values


def _chart(timeline: Table) -> Chart:
    used = tuple(name for name in (*CATEGORIES, *PARALLEL) if any(timeline[name]))
    running = [" in ".join(filter(None, pair)) for pair in zip(timeline["operator"], timeline["module"])]
    return Chart(
        "area", "What lives when, on the fullest rank", "operator", "bytes",
        timeline.rename({"operator": "name", "at": "operator"}).assign(running=running),
        choices=used, label="running", optional="parameters",
        note="Simulated. Each step is the highest of its stretch of operators.",
    )  # fmt: skip
