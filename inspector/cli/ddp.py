"""Train a model for some steps under DDP or FSDP2, and check what people get wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer

from inspector.cli import progress
from inspector.cli.choices import Sharding, Training
from inspector.cli.command import command


def training(keywords: Mapping[str, Any]) -> tuple[str, ...]:
    """What forked workers import, where the options tell that they will be forked."""
    alone = keywords.get("nnodes", 1) == 1 and "RANK" not in os.environ
    cards = keywords.get("device") is None and os.path.exists("/proc/driver/nvidia")
    if not alone or cards or keywords.get("device") == "cuda":
        return ()
    sharded = ("inspector.distributed.fsdp",) if keywords.get("shard") == "fsdp" else ()
    own = ("inspector.distributed.rank", "inspector.core.config", *sharded)
    return (*own, "torch._dynamo", "torchvision", "PIL.Image")


@command(
    "distributed.report:ddp", "model inputs model_args weights seed", progress=progress.training,
    early=training,
)  # fmt: skip
def ddp(
    nproc: Annotated[
        Optional[int], typer.Option(help="Processes on this machine. Default: one for each GPU, 2 on a CPU.")
    ] = None,
    steps: Annotated[Optional[int], typer.Option(help="Optimizer steps (SOLVER.STEPS, 30).")] = None,
    batch: Annotated[Optional[int], typer.Option(help="Samples of one process (DATA.BATCH, 8).")] = None,
    data: Annotated[
        Optional[str],
        typer.Option(help="digits (default), synthetic, or a folder with a subfolder for each class."),
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Autocast (with GradScaler where FP16).")] = False,
    shard: Annotated[
        Optional[Sharding],
        typer.Option(help="DistributedDataParallel, or FSDP2's fully_shard (DDP.SHARD, ddp)."),
    ] = None,
    sync_bn: Annotated[bool, typer.Option("--sync-bn", help="SyncBatchNorm (GPUs only).")] = False,
    accumulate: Annotated[
        Optional[int], typer.Option(help="Batches accumulated in one step (SOLVER.ACCUMULATE, 1).")
    ] = None,
    output_dir: Annotated[
        Optional[str], typer.Option(help="Checkpoints, logs and the configuration (OUTPUT_DIR).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in --output-dir.")
    ] = False,
    kill: Annotated[
        bool, typer.Option("--kill/--no-kill", help="Kill a worker, which must restart and continue.")
    ] = True,
    device: Annotated[Optional[Training], typer.Option(help="Default: cuda if available.")] = None,
    deadline: Annotated[
        Optional[float], typer.Option(help="Time limit in seconds (DDP.DEADLINE, 600).")
    ] = None,
    nnodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    node_rank: Annotated[int, typer.Option(help="The number of this machine.")] = 0,
    rdzv_endpoint: Annotated[str, typer.Option(help="HOST:PORT where the machines meet.")] = "",
) -> None:
    """Train a model for some steps under DDP or FSDP2, and check what people get wrong.

    Under torchrun or SLURM (RANK, WORLD_SIZE) it joins the processes already running.
    """
