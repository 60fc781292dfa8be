"""Compare FP32 with half precision: speed with its uncertainty, memory, and drift from float64."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli import options
from inspector.cli.progress import progress


def bench(
    model: options.Model = None,
    amp: Annotated[
        bool, typer.Option("--amp", help="Float32 against autocast only (FP16 with GradScaler, BF16).")
    ] = False,
    precision: Annotated[
        Optional[str],
        typer.Option(help="Of fp32, tf32, amp-fp16, fp16, amp-bf16, bf16; separated by commas."),
    ] = None,
    mode: Annotated[Optional[str], typer.Option(help="infer, or train; default: both.")] = None,
    batch: Annotated[
        Optional[str], typer.Option(help="Batches, e.g. 1,8,64. Default: 64 on a GPU, 4 on a CPU.")
    ] = None,
    device: Annotated[Optional[str], typer.Option(help="cuda, cuda:1 or cpu. Default: cuda if any.")] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Weights and images in NHWC.")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile every row.")] = False,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Replay every row as a CUDA graph.")
    ] = False,
    threads: Annotated[Optional[int], typer.Option(help="Threads of the CPU.")] = None,
    seconds: Annotated[float, typer.Option(help="Time budget of one mode at one batch.")] = 20.0,
    require_gpu: Annotated[
        bool, typer.Option("--require-gpu", help="Exit with 2 where there is no GPU.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a precision overflows.")] = False,
    weights: options.Weights = None,
    input: options.Input = None,
    model_arg: options.ModelArg = None,
    seed: options.Seed = None,
    format: options.Format = None,
    output: options.Output = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Compare FP32 with half precision: speed with its uncertainty, memory, and drift from float64.

    Rows are measured in turn in one process; a difference is claimed only where its interval says so.
    """
    options.check_output(format, output)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    batches = _numbers(batch)
    from inspector.benchmarking.report import Session

    with options.foreign_output(), progress() as tell:
        session = Session(
            chosen.model,
            chosen.inputs,
            precisions=_words(precision, "--precision"),
            amp=amp,
            modes=_words(mode, "--mode"),
            batches=batches,
            device=device,
            channels_last=channels_last,
            compile=compile,
            cuda_graph=cuda_graph,
            threads=threads,
            seconds=seconds,
            strict=strict,
            require_gpu=require_gpu,
            model_args=chosen.model_args,
            weights=weights,
            seed=chosen.seed,
            tell=tell,
        )
        try:
            result, interrupted = session.run(), False
        except KeyboardInterrupt:
            result, interrupted = session.report(interrupted=True), True
    options.emit(result, format, output)
    if interrupted:
        raise KeyboardInterrupt
    if result.verdict == "fail":
        raise typer.Exit(1)


def _words(text: str | None, option: str) -> list[str] | None:
    from inspector.core.errors import InspectError

    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise InspectError(f"{option} names nothing", f"leave out {option}, or see: inspect bench --help")
    return words


def _numbers(text: str | None) -> list[int] | None:
    from inspector.core.errors import InspectError

    words = _words(text, "--batch")
    try:
        return None if words is None else [int(word) for word in words]
    except ValueError as error:
        raise InspectError(f"cannot read --batch {text!r}", "write e.g. --batch 1,8,64") from error
