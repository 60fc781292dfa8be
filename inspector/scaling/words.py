"""What a report of a simulated rank says in words: its head, its notes, whether it fits."""

from __future__ import annotations

from typing import Any

from inspector.core.devices import named
from inspector.core.links import links
from inspector.footprint.step import CUDA_CONTEXT
from inspector.reporting.report import Finding
from inspector.scaling.child import Request
from inspector.scaling.line import Whole

_NOTES = (
    "simulated: torch's own distributed code ran on fake tensors, each rank for itself; sizes and collectives"
    " are those of torch, peaks those of its allocator with one stream: memory of other streams is not"
    " reused, which may add to `peak_reserved`",
    "not in these numbers: CUDA's own context, what NCCL allocates, and fragmentation beyond two steps",
)
_WHOLE_PARAMETERS = (
    "ZeroRedundancyOptimizer gives each rank whole parameters: a rank that was not simulated may hold more"
    " optimizer state, by that of the largest parameter at most"
)
_BOUNDS = (
    "times are lower bounds, and MFU is an upper bound: operators at the device's peak or bandwidth,"
    " collectives at the rate of their links, all overlapping but what cannot (inspector/scaling/bound.py)"
)
_PIPELINED = (
    "the step of a pipeline ends with its slowest rank: the ranks work off the actions of torch's own"
    " schedule, each waiting for its neighbours (inspector/scaling/bubble.py); MFU is that of all ranks"
)
_OFFLOADED = (
    "parameters, gradients and the optimizer's state are in the memory of the host (as torch asks for them;"
    " pinned, CUDA rounds each up to a power of two); peaks are those of the device, and the time of the"
    " optimizer's step on the host is in no bound"
)
_LOSS_INSIDE = (
    "the last stage returns the loss, not the outputs, so that torch does not join those of all microbatches"
)


def header(request: Request, answer: dict[str, Any], loss: str) -> list[tuple[str, str]]:
    """The lines at the head of the report, with the defaults that were taken."""
    spot = answer["peak_at"]
    lines = [
        ("model", f"{answer['name']} ({answer['source']}, {answer['type'].removeprefix('FSDP')})"),
        ("mesh", f"{request.layout.text}: {request.layout.world_size:,} ranks, {_how(request)}"),
        *_devices(request),
        *_pipeline(answer, request),
        ("input", " ".join(answer["inputs"]) + " on each data-parallel rank" + _default(request.inputs)),
        ("phase", _phase(request)),
        ("loss", loss),
        ("precision", _precision(request, answer)),
        ("peak at", f"{spot['phase']}: {spot['operator']} of {spot['module'] or 'the model'}"),
    ]
    return [(name, text) for name, text in lines if (name, text) != ("loss", "none")]


def _devices(request: Request) -> list[tuple[str, str]]:
    machine = request.machine()
    if machine is None:
        return []
    own = machine.links
    text = f"{machine.device.name}, {machine.nodes} x {machine.per_node}: {own.inside or '?'} GB/s inside"
    return [("devices", f"{text} a node, {own.between or '?'} between ({own.source})")]


def _pipeline(answer: dict[str, Any], request: Request) -> list[tuple[str, str]]:
    line = answer["pipeline"]
    if line is None:
        return []
    count, blocks = line["microbatches"], line["blocks"] or "the model"
    each = answer["samples"] // count
    size = f"{count} microbatches of {each} sample{'s' if each > 1 else ''}"
    if request.layout.microbatches is None:
        size += " (default)"
    counts = ", ".join(map(str, line["counts"]))
    return [("pipeline", f"{request.layout.schedule}, {size}; {blocks} cut into {counts} blocks")]


def fits(answer: dict[str, Any], limit: int | None) -> list[Finding]:
    """Whether a rank fits `limit` bytes."""
    if limit is None:
        return []
    need = answer["needed"]
    text = f"needs {_gib(need)} of {_gib(limit)} (reserved, and {_gib(CUDA_CONTEXT[1])} for CUDA itself)"
    evidence = {"needed": need, "limit": limit}
    status, word = ("fail", "does not fit") if need > limit else ("pass", "fits")
    return [Finding("fits", status, answer["name"], f"{word}: {text}", evidence)]


def _gib(nbytes: float) -> str:
    return f"{nbytes / 2**30:.2f} GiB"


def remarks(request: Request, answer: dict[str, Any], whole: Whole | None) -> list[Finding]:
    """What the numbers mean, and what they leave out."""
    notes = [*answer["notes"], *_NOTES]
    if request.layout.shard == "zero1":
        notes.append(_WHOLE_PARAMETERS)
    if whole is not None:
        notes += [_chosen(whole), _LOSS_INSIDE]
    if request.layout.offload:
        notes.append(_OFFLOADED)
    if answer["times"] is not None:
        notes += [_BOUNDS] if whole is None else [_BOUNDS, _PIPELINED]
        if answer["times"]["step"] is None:
            who = links(named(request.gpu or "").name).name
            notes.append(
                f"no bound of the step's time: the rate between nodes of {who} depends on the machine,"
                " and `network=` gives it"
            )
    if answer["unknown"]:
        names = ", ".join(sorted(answer["unknown"]))
        notes.append(f"no formula for {names}: the compute time is a lower bound without their arithmetic")
    return [Finding("provenance", "warn", "", text) for text in notes]


def _chosen(whole: Whole) -> str:
    """Which ranks of a pipeline were simulated, and why the fullest is among them."""
    places = sorted(set(whole.stands))
    text = f"simulated of the pipeline: place {', '.join(map(str, places))}"
    if len(places) < len(whole.stands):
        text += "; the others have the same blocks, and no more microbatches in flight"
    return f"{text}. In dp and tp the first rank is the fullest: torch's uneven shards shrink with the rank"


def _default(value: Any) -> str:
    return " (default)" if value is None else ""


def _how(request: Request) -> str:
    layout = request.layout
    how = layout.shard if layout.data_parallel > 1 else "one batch"
    if layout.fully_sharded and layout.shard != "zero2" and not layout.reshard:
        how += ", parameters stay gathered after the forward"
    how += ", sequence parallel" if layout.sequence else ""
    how += ", offloaded to the host" if layout.offload else ""
    return how


def _phase(request: Request) -> str:
    if request.optimizer is None:
        return "inference"
    step = f"training step, {request.optimizer}" + (" (default)" if "optimizer" in request.defaults else "")
    return step + (f", {request.layout.accumulate} batches" if request.layout.accumulate > 1 else "")


def _precision(request: Request, answer: dict[str, Any]) -> str:
    layout = request.layout
    text = request.dtype or f"{answer['dtype']} (as the model is)"
    text += ", autocast to bfloat16" if request.amp else ""
    for name, dtype in (("parameters", layout.param_dtype), ("reductions", layout.reduce_dtype)):
        text += f", {name} in {dtype}" if dtype else ""
    return text
