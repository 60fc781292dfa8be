"""`inspect profile`: which pass, counter, cache and roofline answer the question, and the report of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.core.errors import InspectError
from inspector.profiling.cached import Entry
from inspector.profiling.report import report
from inspector.reporting.report import Report
from inspector.tracing.record import Trace

if TYPE_CHECKING:  # a cached trace is shown without torch
    from inspector.models import Model


def profile(
    model: Model | Trace,
    inputs: Any = None,
    *,
    phase: str = "forward",
    device: str | None = None,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    by: str = "module",
    depth: int = 2,
    top: int | None = None,
    strict: bool = False,
    counter: str = "ours",
    roofline: str | None = None,
    device_file: str | Path | None = None,
    tf32: bool = False,
    amp: bool = False,
    dtype: str | None = None,
    measure: bool = False,
    cache: bool = False,
    save_trace: str | Path | None = None,
) -> Report:
    """Count parameters, MACs, FLOPs, activations and bytes of `model`.

    Takes what `trace` takes, or a finished Trace, and returns a Report: `.metrics["macs"].value`,
    `.to_frame("modules")`, `.to_json()`.

    by, depth, top: what the printed form shows; the tables are always whole.
    strict: an operator without a formula fails the report.
    counter: "thop", "fvcore", "torch", ... puts its numbers in place of ours.
    roofline: a device's name ("h100"); adds the least time of each module and operator on it. `device_file`
        is a YAML file of further devices; tf32, amp and dtype say how the model runs there; `measure` also
        times each module on this machine.
    cache: keep the trace of a torchvision or timm model, and reuse it (the command line does; formulas
        that a program registers are not part of its key).
    save_trace: also save the trace as JSON.

    Raises ForwardError when the model raises (its `report` holds what was counted until then), InspectError
    for everything else that is wrong.
    """
    if counter != "ours":
        _refuse(
            counter, trace=isinstance(model, Trace), device=device, strict=strict, save_trace=save_trace,
            roofline=roofline, device_file=device_file, tf32=tf32, amp=amp, dtype=dtype, measure=measure,
        )  # fmt: skip
        from inspector.counters.profile import counted

        assert not isinstance(model, Trace)
        return counted(
            model, inputs, counter=counter, phase=phase, seed=seed, model_args=model_args,
            by=by, depth=depth, top=top,
        )  # fmt: skip
    limits = {"tf32": tf32, "amp": amp, "dtype": dtype, "measure": measure}
    plain = roofline is None and device_file is None and not any(limits.values())
    make = partial(report, by=by, depth=depth, top=top, strict=strict)
    entry = None
    if cache and plain and device in (None, "meta"):
        entry = Entry.of(model, model_args, inputs, phase, seed)
    kept = entry.load() if entry is not None else None
    if kept is not None:
        result = _saved(kept, save_trace, make)
        result.header.append(("cached", "counted by an earlier run; --no-cache counts again"))
        return result
    from inspector.profiling.roofline import Roofline
    from inspector.profiling.run import trace
    from inspector.tracing.capture import ForwardError

    asked = Roofline.of(roofline, device_file, **limits)
    try:
        run = model if isinstance(model, Trace) else trace(
            model, inputs, phase=phase, device=device, seed=seed, model_args=model_args,
            setting=asked.setting,
        )  # fmt: skip
    except ForwardError as error:
        error.report = make(error.trace)
        raise
    if entry is not None:
        entry.store(run)
    result = _saved(run, save_trace, make)
    return asked.add(result, run, model, inputs, model_args, seed, depth)


def _saved(trace: Trace, file: str | Path | None, make: Callable[[Trace], Report]) -> Report:
    if file is not None:
        trace.save(file)
    return make(trace)


def _refuse(counter: str, **options: object) -> None:
    """What only our own pass can answer."""
    for name, value in options.items():
        if value:
            raise InspectError(
                f"`{name}=` is for our own count, not that of {counter}", f"leave `{name}=` out"
            )
