"""Count parameters, MACs, FLOPs, activations and bytes of a model, module by module."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli.choices import Counter, Dtype, Grouping, KvCache, Pass
from inspector.cli.command import command
from inspector.cli.completion import remember
from inspector.cli.options import device_names


@command("profiling.profile:profile", "model inputs call model_args phase device seed", after=remember)
def profile(
    phase: Annotated[
        Pass,
        typer.Option(
            help="forward; train: forward and backward in train mode; prefill or decode of a language model."
        ),
    ] = "forward",
    context: Annotated[
        Optional[int],
        typer.Option(help="Prefill, decode: tokens of the prompt of each sequence. Default: 2048."),
    ] = None,
    batch: Annotated[Optional[int], typer.Option(help="Prefill, decode: sequences. Default: 1.")] = None,
    new_tokens: Annotated[
        Optional[int], typer.Option(help="Decode: tokens after the context, in one step. Default: 1.")
    ] = None,
    kv_cache: Annotated[
        Optional[KvCache],
        typer.Option(help="Prefill, decode: a cache that grows, of fixed length, or in fewer bits."),
    ] = None,
    by: Annotated[
        Grouping, typer.Option(help="Show the tree by module, or a table by type or op.")
    ] = "module",
    depth: Annotated[int, typer.Option(min=0, help="Levels of the module tree to show.")] = 2,
    top: Annotated[Optional[int], typer.Option(min=1, help="Show only the largest N rows.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 if any operator has no formula.")] = False,
    counter: Annotated[Counter, typer.Option(help="Show what another counter counts.")] = "ours",
    roofline: Annotated[
        Optional[str],
        typer.Option(
            metavar="DEVICE",
            autocompletion=device_names,
            help="Add the least time on this device: h100, a100, l4, t4, cpu, ...",
        ),
    ] = None,
    device_file: Annotated[
        Optional[Path], typer.Option(help="YAML of a device: name, peaks in TFLOP/s, bandwidth in GB/s.")
    ] = None,
    tf32: Annotated[bool, typer.Option("--tf32", help="Roofline: float32 products run in TF32.")] = False,
    amp: Annotated[bool, typer.Option("--amp", help="Roofline: autocast to bfloat16.")] = False,
    dtype: Annotated[Optional[Dtype], typer.Option(help="Roofline: dtype of weights and inputs.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Roofline: also time each module on this machine's device.")
    ] = False,
    cache: Annotated[
        bool,
        typer.Option("--cache/--no-cache", help="Reuse the trace of an earlier run (torchvision, timm)."),
    ] = True,
    save_trace: Annotated[Optional[Path], typer.Option(help="Also save the trace as JSON.")] = None,
) -> None:
    """Count parameters, MACs, FLOPs, activations and bytes of a model, module by module."""
