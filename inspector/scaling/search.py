"""Which meshes of N devices fit, and what each can reach at most: every candidate is simulated."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from inspector.core.errors import InspectError
from inspector.footprint.question import parse_size
from inspector.reporting.report import Chart, Finding, Report, Section, environment, metrics
from inspector.reporting.tables import Table
from inspector.scaling.bound import Machine
from inspector.scaling.child import Request
from inspector.scaling.layout import Layout
from inspector.scaling.run import each

Tell = Callable[[str, float], None]
_NOTE = (
    "every mesh has the same batch on each data-parallel rank; they are sorted by samples a second, an upper"
    " bound: collectives and operators at the rate of links and device, with all the overlap that may be"
)


def limit_of(fits: str | int | None, machine: Machine) -> int:
    """The bytes that a rank may need: as given, or the device's memory. Raises InspectError without both."""
    if fits is not None:
        return parse_size(fits)
    if machine.device.memory is None:
        raise InspectError(f"the memory of {machine.device.name} varies", "pass it as `fits=`")
    return int(machine.device.memory * 2**30)


def candidates(gpus: int, per_node: int, base: Layout) -> Iterator[Layout]:
    """Meshes of `gpus` devices: tensor parallelism over 1, 2, 4, ... of a node, the rest data-parallel under
    each sharding; hsdp with a replica in each node."""
    tp = 1
    while tp <= min(gpus, per_node):
        if gpus % tp == 0:
            yield from _with_tp(gpus, tp, per_node, base)
        tp *= 2


def _with_tp(gpus: int, tp: int, per_node: int, base: Layout) -> Iterator[Layout]:
    data, inner = gpus // tp, {"tp": tp} if tp > 1 else {}
    if data == 1:
        yield replace(base, mesh=inner or {"dp": 1}, shard="fsdp")
        return
    for shard in ("ddp", "zero2", "fsdp") if tp == 1 else ("zero2", "fsdp"):
        policies = bool(base.param_dtype or base.reduce_dtype or base.wrap)
        if not (shard == "ddp" and policies):
            yield replace(base, mesh={"dp": data, **inner}, shard=shard)
    inside = per_node // tp
    if 1 < inside < data and data % inside == 0:
        yield replace(base, mesh={"replicate": data // inside, "dp": inside, **inner}, shard="hsdp")


def found(request: Request, gpus: int, limit: int, tell: Tell) -> Report:
    """The report of a search: meshes that fit come first, the fastest at the top, the others with why not."""
    machine = request.machine()
    assert machine is not None
    layouts = list(candidates(gpus, machine.per_node, request.layout))
    requests = [replace(request, layout=layout) for layout in layouts]
    tell("simulating meshes", 0.0)
    answers = each(
        requests, lambda done: tell("simulating meshes", done / len(layouts)), max(1, (os.cpu_count() or 2))
    )
    rows = [_row(layout, answer, limit) for layout, answer in zip(layouts, answers)]
    frame = Table.of(rows).sort(lambda row: (not row["fits"], -(row["samples_bound"] or 0.0)))
    frame = frame.assign(best=_best(frame))
    known = next((answer for answer in answers if isinstance(answer, dict)), None)
    if known is None:
        error = answers[0]
        assert isinstance(error, InspectError)
        raise error
    return _report(request, machine, known, frame, limit)


def _row(layout: Layout, answer: dict[str, Any] | InspectError, limit: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "mesh": layout.text, "shard": layout.shard if layout.data_parallel > 1 else "", "fits": False,
        "needed": None, "step_bound": None, "mfu_bound": None, "samples_bound": None, "why": "",
    }  # fmt: skip
    if isinstance(answer, InspectError):
        return {**row, "why": answer.message}
    step, samples = answer["times"]["step"], answer["samples"] * layout.data_parallel * layout.accumulate
    row |= {"needed": answer["needed"], "fits": answer["needed"] <= limit, "step_bound": step}
    row |= {"mfu_bound": answer["times"]["mfu"], "samples_bound": samples / step if step else None}
    if not row["fits"]:
        largest = sorted(answer["peak"].items(), key=lambda part: -part[1])[:2]
        parts = ", ".join(f"{name} {nbytes / 2**30:.1f} GiB" for name, nbytes in largest)
        row["why"] = f"{parts} at the peak"
    return row


def _best(frame: Table) -> list[bool]:
    """Whether no other mesh needs less memory and can be faster (Pareto)."""
    points = list(zip(frame["needed"], frame["samples_bound"]))
    known = [(needed, samples) for needed, samples in points if samples is not None]

    def beaten(needed: float, samples: float) -> bool:
        return any(
            less <= needed and more >= samples and (less, more) != (needed, samples) for less, more in known
        )

    return [samples is not None and not beaten(needed, samples) for needed, samples in points]


def _report(request: Request, machine: Machine, answer: dict[str, Any], frame: Table, limit: int) -> Report:
    fitting = frame.where(frame["fits"])
    notes = [*answer["notes"], _NOTE]
    findings = [Finding("provenance", "warn", "", note) for note in notes]
    if not len(fitting):
        findings.insert(0, Finding("fits", "warn", answer["name"], "no mesh fits"))
    drawn = frame.where(value is not None for value in frame["samples_bound"])
    drawn = drawn.assign(
        GiB=[needed / 2**30 for needed in drawn["needed"]],
        label=[f"{mesh} {shard}" for mesh, shard in zip(drawn["mesh"], drawn["shard"])],
        kind=["Pareto" if best else "other" for best in drawn["best"]],
    )
    return Report(
        command="scale",
        subject={
            "name": answer["name"], "source": answer["source"], "inputs": answer["inputs"], "phase": "train"
            if request.optimizer else "forward", "device": "fake", "gpu": machine.device.name,
            "gpus": request.layout.world_size,
        },
        environment=environment(seed=request.seed),
        metrics=metrics({"meshes_tried": len(frame), "meshes_fitting": len(fitting)}),
        tables={"meshes": frame},
        findings=findings,
        header=[
            ("model", f"{answer['name']} ({answer['source']})"),
            ("devices", f"{request.layout.world_size} {machine.device.name} in nodes of {machine.per_node},"
             f" {limit / 2**30:.1f} GiB each; {machine.links.source}"),
            ("input", " ".join(answer["inputs"]) + " on each data-parallel rank"),
        ],
        sections=[Section("meshes, the fastest first", frame.drop("best"))],
        charts=[
            Chart("scatter", "Memory of a rank against samples a second, at most", "GiB", "samples_bound",
                  drawn, group="kind", label="label", note="Pareto: none is both smaller and faster")
        ],
    )  # fmt: skip
