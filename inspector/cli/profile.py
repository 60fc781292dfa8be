"""Count parameters, MACs, FLOPs, activations and bytes of a model, module by module."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli import options


def profile(
    model: options.Model = None,
    input: options.Input = None,
    phase: options.Phase = "forward",
    by: Annotated[str, typer.Option(help="Show the tree by module, or a table by type or op.")] = "module",
    depth: Annotated[int, typer.Option(min=0, help="Levels of the module tree to show.")] = 2,
    top: Annotated[Optional[int], typer.Option(min=1, help="Show only the largest N rows.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any operator has no formula.")] = False,
    model_arg: options.ModelArg = None,
    device: options.Device = None,
    counter: Annotated[
        str, typer.Option(help="Show what thop, fvcore, torch, ... counts in place of ours.")
    ] = "ours",
    seed: options.Seed = None,
    roofline: Annotated[
        Optional[str],
        typer.Option(
            metavar="DEVICE", help="Add the least time on this device: h100, a100, l4, t4, cpu, ..."
        ),
    ] = None,
    device_file: Annotated[
        Optional[Path], typer.Option(help="YAML of a device: name, peaks in TFLOP/s, bandwidth in GB/s.")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Roofline: float32 products run in TF32.")] = False,
    amp: Annotated[bool, typer.Option("--amp", help="Roofline: autocast to bfloat16.")] = False,
    dtype: Annotated[Optional[str], typer.Option(help="Roofline: dtype of weights and inputs.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Roofline: also time each module on the device at hand.")
    ] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Count a torchvision or timm model anew.")
    ] = False,
    save_trace: Annotated[Optional[Path], typer.Option(help="Also save the trace as JSON.")] = None,
    format: options.Format = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Count parameters, MACs, FLOPs, activations and bytes of a model, module by module."""
    options.check_output(format, output)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    if counter != "ours":
        _refuse(
            counter, device=device, strict=strict, save_trace=save_trace, roofline=roofline,
            device_file=device_file, tf32=tf32, amp=amp, dtype=dtype, measure=measure,
        )  # fmt: skip
        from inspector.api.counted import counted

        with options.foreign_output():
            result = counted(
                chosen.model,
                chosen.inputs,
                counter=counter,
                phase=phase,
                seed=chosen.seed,
                model_args=chosen.model_args,
                by=by,
                depth=depth,
                top=top,
            )
        options.emit(result, format, output)
        return
    from inspector.api.profile import report
    from inspector.cache import Entry

    roofs = {"tf32": tf32, "amp": amp, "dtype": dtype, "measure": measure}
    make = partial(report, by=by, depth=depth, top=top, strict=strict)
    plain = roofline is None and device_file is None and not any(roofs.values())
    entry = None
    if plain and not no_cache and device in (None, "meta"):
        entry = Entry.of(chosen.model, chosen.model_args, chosen.inputs, phase, chosen.seed)
    cached = entry.load() if entry is not None else None
    if cached is not None:
        found = cached
    else:
        from inspector.api.profile import trace
        from inspector.api.roofline import Roofline
        from inspector.trace.capture import ForwardError

        asked = Roofline.of(roofline, device_file, **roofs)
        try:
            with options.foreign_output():
                found = trace(
                    chosen.model,
                    chosen.inputs,
                    phase=phase,
                    device=device,
                    seed=chosen.seed,
                    model_args=chosen.model_args,
                    setting=asked.setting,
                )
        except ForwardError as error:
            options.emit(make(error.trace), format, output)
            raise
        if entry is not None:
            entry.store(found)
    if save_trace is not None:
        found.save(save_trace)
    result = make(found)
    if cached is not None:
        result.header.append(("cached", "counted by an earlier run; --no-cache counts again"))
    if not plain:
        with options.foreign_output():
            result = asked.add(result, chosen.model, chosen.inputs, chosen.model_args, chosen.seed, depth)
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)


def _refuse(counter: str, **given: object) -> None:
    """Options that only our own pass can keep."""
    from inspector.errors import InspectError

    for name, value in given.items():
        if value:
            option = name.replace("_", "-")
            raise InspectError(
                f"--{option} is for our own count, not that of {counter}", f"leave --{option} out"
            )
