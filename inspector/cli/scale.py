"""Simulate sharded training on many devices, without any of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from inspector.cli.choices import Attention, Dtype, Half, Phase, Piping, Scattering, Stepping
from inspector.cli.command import command
from inspector.cli.options import device_names
from inspector.core.spec import library


def simulating(keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """What the processes of the ranks import."""
    return ("inspector.scaling.child", *library(keywords["model"]))


@command("scaling.report:scale", "model inputs call model_args seed", early=simulating)
def scale(
    mesh: Annotated[
        Optional[str],
        typer.Option(metavar="dp=8,pp=4,tp=8", help="Sizes of dp, pp, tp, and replicate (of hsdp)."),
    ] = None,
    shard: Annotated[
        Optional[Scattering], typer.Option(help="What data-parallel ranks share. Default: fsdp.")
    ] = None,
    batch: Annotated[Optional[int], typer.Option(min=1, help="Samples of each data-parallel rank.")] = None,
    phase: Annotated[Phase, typer.Option(help="train, or forward: without gradients.")] = "train",
    optimizer: Annotated[Optional[Stepping], typer.Option(help="Default: sgd.")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Autocast to bfloat16.")] = False,
    dtype: Annotated[Optional[Dtype], typer.Option(help="Of weights and inputs.")] = None,
    param_dtype: Annotated[Optional[Half], typer.Option(help="FSDP2 gathers parameters in this.")] = None,
    reduce_dtype: Annotated[Optional[Half], typer.Option(help="FSDP2 reduces gradients in this.")] = None,
    reshard: Annotated[
        bool, typer.Option("--reshard/--no-reshard", help="Free gathered parameters after the forward.")
    ] = True,
    wrap: Annotated[
        Optional[list[str]],
        typer.Option(metavar="GLOB", help="Modules that FSDP2 gathers as one; repeatable. Default: blocks."),
    ] = None,
    checkpoint_activations: Annotated[
        Optional[list[str]],
        typer.Option(metavar="GLOB", help="Compute these modules again in the backward; repeatable."),
    ] = None,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches whose gradients make one step.")] = 1,
    offload: Annotated[
        bool, typer.Option("--offload", help="FSDP2 keeps parameters, gradients and states on the host.")
    ] = False,
    schedule: Annotated[
        Optional[Piping], typer.Option(help="Of the pipeline, with pp in --mesh. Default: 1f1b.")
    ] = None,
    microbatches: Annotated[
        Optional[int], typer.Option(min=1, help="Parts of a batch. Default: one for each sample.")
    ] = None,
    stages_per_rank: Annotated[
        Optional[int], typer.Option(min=1, help="Of the interleaved schedule. Default: 2.")
    ] = None,
    tp_plan: Annotated[
        Optional[Path], typer.Option(metavar="FILE", help="YAML of `module.*.path: colwise` lines.")
    ] = None,
    sequence_parallel: Annotated[
        bool, typer.Option("--sequence-parallel", help="Split over tp what lies between the plan's modules.")
    ] = False,
    attention: Annotated[Attention, typer.Option(help="fused, as a GPU runs it, or math.")] = "fused",
    gpu: Annotated[
        Optional[str],
        typer.Option(autocompletion=device_names, help="The device, e.g. h100: adds bounds of time."),
    ] = None,
    nodes: Annotated[
        Optional[str], typer.Option(metavar="8x8", help="Nodes x devices in each. Default: 8 in each.")
    ] = None,
    network: Annotated[
        Optional[float], typer.Option(metavar="GB/S", help="Of each device between nodes, one direction.")
    ] = None,
    fits: Annotated[
        Optional[str], typer.Option(metavar="80GB", help="Exit with 1 if a rank needs more than this.")
    ] = None,
    ranks: Annotated[
        Optional[list[int]],
        typer.Option("--rank", min=0, help="Simulate this one; repeatable. Default: first and last."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Try the meshes of --gpus devices, and sort them.")
    ] = False,
    gpus: Annotated[Optional[int], typer.Option(min=1, help="With --search: how many devices.")] = None,
) -> None:
    """Simulate sharded training on many devices, without any of them.

    torch's own FSDP2, tensor parallelism, pipelines and DDP run on a fake process group, one rank at a time:
    what each holds, what it sends, and how fast that can be.
    """
