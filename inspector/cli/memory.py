"""Predict the peak memory of inference or training on a CUDA device, without one."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli import options


def memory(
    model: options.Model = None,
    input: options.Input = None,
    batch: Annotated[
        Optional[int], typer.Option(help="Samples; the input's first dimension of 1 becomes this.")
    ] = None,
    phase: Annotated[
        str, typer.Option(help="forward (inference), or train: a whole training step.")
    ] = "forward",
    optimizer: Annotated[
        Optional[str],
        typer.Option(help="sgd (default), momentum, adam, adamw, adam8bit, adamw8bit; with --phase train."),
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Autocast to bfloat16.")] = False,
    dtype: Annotated[
        Optional[str], typer.Option(help="Of weights and inputs: float32, bfloat16, float16, float64.")
    ] = None,
    master_weights: Annotated[
        bool, typer.Option("--master-weights", help="The optimizer keeps float32 copies of half weights.")
    ] = False,
    checkpoint_activations: Annotated[
        Optional[list[str]],
        typer.Option(metavar="GLOB", help="Compute these modules again in the backward; repeatable."),
    ] = None,
    attention: Annotated[
        str, typer.Option(help="fused, as a GPU runs it, or math: its parts, with the scores in memory.")
    ] = "fused",
    gpu: Annotated[
        Optional[str], typer.Option(help="The device, e.g. a100 or h100: sets cuBLAS's workspace.")
    ] = None,
    fits: Annotated[
        Optional[str], typer.Option(metavar="24GiB", help="Exit with 1 if it needs more than this.")
    ] = None,
    max_batch: Annotated[
        Optional[str], typer.Option(metavar="24GiB", help="Find the largest batch that fits into this.")
    ] = None,
    world_size: Annotated[
        Optional[int], typer.Option(min=1, help="Add an estimate for each of so many processes.")
    ] = None,
    shard: Annotated[str, typer.Option(help="How they share the model: ddp or fsdp.")] = "ddp",
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run it on the device at hand, and compare.")
    ] = False,
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 1,
    model_arg: options.ModelArg = None,
    seed: options.Seed = None,
    format: options.Format = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Predict the peak memory of inference or training on a CUDA device, without one.

    One pass on shapes alone records when every block of memory lives; torch's allocator is simulated on it.
    """
    options.check_output(format, output)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    from inspector.footprint.report import memory as predict

    with options.foreign_output():
        result = predict(
            chosen.model,
            chosen.inputs,
            batch=batch,
            phase=phase,
            optimizer=optimizer,
            amp=amp,
            dtype=dtype,
            master_weights=master_weights,
            checkpoint_activations=checkpoint_activations or (),
            attention=attention,
            gpu=gpu,
            fits=fits,
            max_batch=max_batch,
            world_size=world_size,
            shard=shard,
            measure=measure,
            model_args=chosen.model_args,
            seed=chosen.seed,
            depth=depth,
        )
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)
