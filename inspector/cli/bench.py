"""Compare FP32 with half precision: speed with its uncertainty, memory, and drift from float64."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli.choices import Mode, Precision, listed, several
from inspector.cli.command import command
from inspector.cli.options import numbers


@command("benchmarking.report:bench", "model inputs call model_args weights seed")
def bench(
    amp: Annotated[
        bool, typer.Option("--amp", help="Float32 against autocast only (FP16 with GradScaler, BF16).")
    ] = False,
    precisions: Annotated[
        Optional[str], several(Precision, "--precision", f"Some of {listed(Precision)}; separated by commas.")
    ] = None,
    modes: Annotated[Optional[str], several(Mode, "--mode", "infer, or train; default: both.")] = None,
    batches: Annotated[
        Optional[str],
        typer.Option(
            "--batch", callback=numbers, help="Batches, e.g. 1,8,64. Default: 64 on a GPU, 4 on a CPU."
        ),
    ] = None,
    device: Annotated[
        Optional[str], typer.Option(help="cuda, cuda:1, xpu, mps or cpu. Default: the accelerator.")
    ] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Weights and images in NHWC.")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile every row.")] = False,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="Replay every row as a CUDA graph.")
    ] = False,
    combine: Annotated[
        bool, typer.Option("--combine", help="Each of these three apart and together; names the fastest.")
    ] = False,
    threads: Annotated[Optional[int], typer.Option(help="CPU threads.")] = None,
    seconds: Annotated[float, typer.Option(help="Time budget of one mode at one batch.")] = 20.0,
    require_gpu: Annotated[
        bool, typer.Option("--require-gpu", help="Exit with 2 where there is no GPU.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when a precision overflows.")] = False,
) -> None:
    """Compare FP32 with half precision: speed with its uncertainty, memory, and drift from float64.

    Rows are measured in turn in one process; a difference is claimed only where its interval excludes none.
    """
