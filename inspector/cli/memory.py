"""Predict the peak memory of inference or training on a CUDA device, without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from inspector.cli.choices import Attention, Dtype, Optimizer, Sharding
from inspector.cli.command import command
from inspector.cli.options import device_names
from inspector.cli.scale import simulating as simulating_ranks


def simulating(keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """What the processes of the ranks import, where there are several."""
    return simulating_ranks(keywords) if keywords.get("world_size") else ()


@command("footprint.report:memory", "model inputs call model_args phase seed", early=simulating)
def memory(
    batch: Annotated[
        Optional[int], typer.Option(help="Samples; the input's first dimension of 1 becomes this.")
    ] = None,
    optimizer: Annotated[Optional[Optimizer], typer.Option(help="With --phase train. Default: sgd.")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Autocast to bfloat16.")] = False,
    dtype: Annotated[Optional[Dtype], typer.Option(help="Of weights and inputs.")] = None,
    master_weights: Annotated[
        bool,
        typer.Option(
            "--master-weights", help="The optimizer keeps float32 copies of half-precision weights."
        ),
    ] = False,
    checkpoint_activations: Annotated[
        Optional[list[str]],
        typer.Option(metavar="GLOB", help="Compute these modules again in the backward; repeatable."),
    ] = None,
    attention: Annotated[
        Attention,
        typer.Option(help="fused, as a GPU runs it, or math: its parts, with the scores in memory."),
    ] = "fused",
    gpu: Annotated[
        Optional[str],
        typer.Option(
            autocompletion=device_names, help="The device, e.g. a100 or h100: whose kernels and workspaces."
        ),
    ] = None,
    calibrate: Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Workspaces measured on the card, of benchmarks/gpu.py 2."),
    ] = None,
    fits: Annotated[
        Optional[str], typer.Option(metavar="24GiB", help="Exit with 1 if it needs more than this.")
    ] = None,
    max_batch: Annotated[
        Optional[str], typer.Option(metavar="24GiB", help="Find the largest batch that fits in this.")
    ] = None,
    world_size: Annotated[
        Optional[int], typer.Option(min=1, help="Add the peak of each of N processes, simulated.")
    ] = None,
    shard: Annotated[Sharding, typer.Option(help="How those processes share the model.")] = "ddp",
    measure: Annotated[
        bool, typer.Option("--measure", help="Also run it on this machine's device, and compare.")
    ] = False,
    depth: Annotated[int, typer.Option(min=0, help="Levels of modules to show.")] = 1,
) -> None:
    """Predict the peak memory of inference or training on a CUDA device, without one.

    One pass on shapes alone records when every block of memory lives; torch's allocator is simulated on it.
    """
