"""What it would take to serve a language model on a GPU, without one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli.choices import Dtype
from inspector.cli.command import command
from inspector.cli.options import device_names, numbers


@command("serving.report:llm", "model model_args seed")
def llm(
    gpu: Annotated[
        Optional[str],
        typer.Option(
            autocompletion=device_names,
            help="The device: h100, a100, l4, t4, ... Default: h100, with --measure this machine's GPU.",
        ),
    ] = None,
    device_file: Annotated[
        Optional[Path],
        typer.Option(help="YAML of a device: name, peaks in TFLOP/s, bandwidth in GB/s, memory in GiB."),
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each sequence's prompt.")] = 8192,
    batch: Annotated[
        Optional[str],
        typer.Option(metavar="N,...", callback=numbers, help="Sequences. Default: 1,4,16,64,256."),
    ] = None,
    dtype: Annotated[
        Optional[Dtype], typer.Option(help="Of weights and cache. Default: the configuration's.")
    ] = None,
    weights: Annotated[
        Optional[str],
        typer.Option(
            metavar="SCHEME",
            help="Weights as if kept in fewer bits, no file: int8, fp8, int4[:group=128], nf4, gptq;"
            " w8a8, w8a8-fp8.",
        ),
    ] = None,
    reserve: Annotated[
        float, typer.Option(min=0.0, max=0.99, help="The share of the memory that stays free.")
    ] = 0.1,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run it on this machine's accelerator or CPU.")
    ] = False,
) -> None:
    """What it would take to serve a language model on a GPU, without one.

    A prefill and a decode step of each batch run on shapes alone: memory, and bounds of their time.
    """
