"""`inspect profile`: which pass, counter, cache and roofline answer the question, and the report of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inspector.core.errors import InspectError
from inspector.profiling.cached import Entry
from inspector.profiling.report import report
from inspector.reporting.report import Finding, Report
from inspector.tracing.record import StateEntry, Trace

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
    call: str | None = None,
    context: int | None = None,
    batch: int | None = None,
    new_tokens: int | None = None,
    kv_cache: str | None = None,
) -> Report:
    """Count parameters, MACs, FLOPs, activations and bytes of `model`.

    Takes what `trace` takes, or a finished Trace, and returns a Report: `.metrics["macs"].value`,
    `.to_frame("modules")`, `.to_json()`.

    by, depth, top: what the printed form shows; the tables are always whole.
    strict: an operator without a formula fails the report.
    counter: "thop", "fvcore", "torch", ... puts its numbers in place of ours.
    roofline: a device's name ("h100"); adds a lower bound on the time of each module and operator on it.
        `device_file` is a YAML file of further devices; tf32, amp and dtype say how the model runs there;
        `measure` also times each module on this machine.
    cache: keep the trace of a torchvision or timm model, and reuse it (the command line does; formulas
        that a program registers are not part of its key).
    save_trace: also save the trace as JSON. call: the method to run in place of the forward.
    context, batch, new_tokens, kv_cache: of a phase "prefill" or "decode", see `trace`; the report then also
        has FLOPs, bytes and cache bytes a token, the weights that are read, and active parameters.

    Raises ForwardError when the model raises (its `report` holds what was counted until then), InspectError
    for everything else that is wrong.
    """
    limits = {"tf32": tf32, "amp": amp, "dtype": dtype, "measure": measure}
    device_limits = {"roofline": roofline, "device_file": device_file, **limits}
    view: dict[str, Any] = {"by": by, "depth": depth, "top": top}
    how: dict[str, Any] = {"phase": phase, "seed": seed, "model_args": model_args, "call": call}
    step = {"context": context, "batch": batch, "new_tokens": new_tokens, "kv_cache": kv_cache}
    how.update({name: value for name, value in step.items() if value is not None})
    if counter != "ours":
        ours = {"device": device, "strict": strict, "save_trace": save_trace, **device_limits, **step}
        if phase not in ("forward", "train"):
            raise InspectError(f"{counter} counts no {phase}", "leave `counter=` out")
        return _counted(counter, model, inputs, ours, **how, **view)
    checks: Checks = no_checks
    if isinstance(model, str) and model.startswith(("hf:", "huggingface:")):
        from inspector.models import as_recipe

        model = as_recipe(model, model_args)
        checks = model.checks
    make = partial(_made, checks=checks, strict=strict, **view)
    if (
        cache
        and phase in ("forward", "train")
        and device in (None, "meta")
        and not any(device_limits.values())
    ):
        return _cached(
            Entry.of(model, model_args, inputs, phase, seed, call), model, inputs, make, save_trace, how
        )
    from inspector.profiling.roofline import Roofline

    asked = Roofline.of(roofline, device_file, **limits)
    run = _run(model, inputs, make, setting=asked.setting, device=device, **how)
    return asked.add(_saved(run, save_trace, make), run, model, inputs, model_args, seed, depth)


Checks = Callable[[Sequence[StateEntry]], Iterable[Finding]]


def no_checks(entries: Sequence[StateEntry]) -> Iterable[Finding]:
    """Of a model of which nothing is published."""
    return ()


def _made(trace: Trace, checks: Checks, **view: Any) -> Report:
    """The report of a trace, with what its source says of the same state."""
    result = report(trace, **view)
    result.findings += checks(trace.state)
    return result


def _counted(
    counter: str, model: Model | Trace, inputs: Any, ours: Mapping[str, object], **how: Any
) -> Report:
    """The report of another counter, which has none of the options that are `ours`."""
    _refuse(counter, trace=isinstance(model, Trace), **ours)
    from inspector.counters.profile import counted

    assert not isinstance(model, Trace)
    return counted(model, inputs, counter=counter, **how)


def _cached(
    entry: Entry | None,
    model: Model | Trace,
    inputs: Any,
    make: Callable[[Trace], Report],
    file: str | Path | None,
    how: Mapping[str, Any],
) -> Report:
    """The report of the trace that an earlier run kept; of one that is kept now where there is none."""
    kept = entry.load() if entry is not None else None
    if kept is not None:
        result = _saved(kept, file, make)
        result.header.append(("cached", "counted by an earlier run; --no-cache counts again"))
        return result
    run = _run(model, inputs, make, **how)
    if entry is not None:
        entry.store(run)
    return _saved(run, file, make)


def _run(model: Model | Trace, inputs: Any, make: Callable[[Trace], Report], **how: Any) -> Trace:
    """The trace; a forward that raises carries the report of what was counted until then."""
    if isinstance(model, Trace):
        return model
    from inspector.profiling.run import trace
    from inspector.tracing.capture import ForwardError

    try:
        return trace(model, inputs, **how)
    except ForwardError as error:
        error.report = make(error.trace)
        raise


def _saved(trace: Trace, file: str | Path | None, make: Callable[[Trace], Report]) -> Report:
    if file is not None:
        trace.save(file)
    return make(trace)


def _refuse(counter: str, **options: object) -> None:
    """What only our own pass can answer."""
    for name, value in options.items():
        if value:
            raise InspectError(
                f"`{name}=` applies to our own count, not to that of {counter}", f"leave `{name}=` out"
            )
