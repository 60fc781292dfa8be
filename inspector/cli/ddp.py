"""Train a model for some steps under DistributedDataParallel, and check what people get wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Optional

import typer

from inspector.cli import options


def ddp(
    model: options.Model = None,
    nproc: Annotated[
        Optional[int], typer.Option(help="Processes here. Default: one for each GPU, 2 on a CPU.")
    ] = None,
    steps: Annotated[Optional[int], typer.Option(help="Optimizer steps (SOLVER.STEPS, 30).")] = None,
    batch: Annotated[Optional[int], typer.Option(help="Samples of one process (DATA.BATCH, 8).")] = None,
    data: Annotated[
        Optional[str],
        typer.Option(help="digits (default), synthetic, or a folder with a subfolder for each class."),
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Autocast (with GradScaler where FP16).")] = False,
    sync_bn: Annotated[bool, typer.Option("--sync-bn", help="SyncBatchNorm (GPUs only).")] = False,
    accumulate: Annotated[
        Optional[int], typer.Option(help="Batches of one step, added up (SOLVER.ACCUMULATE, 1).")
    ] = None,
    output_dir: Annotated[
        Optional[str], typer.Option(help="Checkpoints, logs and the configuration (OUTPUT_DIR).")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in --output-dir.")
    ] = False,
    kill: Annotated[
        bool, typer.Option("--kill/--no-kill", help="Kill a worker, which must come back and go on.")
    ] = True,
    device: Annotated[Optional[str], typer.Option(help="cpu or cuda. Default: cuda if any.")] = None,
    deadline: Annotated[Optional[float], typer.Option(help="Seconds at most (DDP.DEADLINE, 600).")] = None,
    nnodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    node_rank: Annotated[int, typer.Option(help="The number of this machine.")] = 0,
    rdzv_endpoint: Annotated[str, typer.Option(help="HOST:PORT where the machines meet.")] = "",
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
    """Train a model for some steps under DistributedDataParallel, and check what people get wrong.

    Under torchrun or SLURM (RANK, WORLD_SIZE) it joins the processes that are there.
    """
    options.check_output(format, output)
    overrides = list(set or [])
    for key, value in (
        ("SOLVER.STEPS", steps),
        ("DATA.BATCH", batch),
        ("DATA.SOURCE", data),
        ("AMP.ENABLED", True if amp else None),
        ("DDP.SYNC_BN", True if sync_bn else None),
        ("SOLVER.ACCUMULATE", accumulate),
        ("OUTPUT_DIR", output_dir),
        ("DDP.DEADLINE", deadline),
    ):
        if value is not None:
            overrides.append(f"{key}={value}")
    chosen = options.settings(
        config, overrides, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    _check_resume(resume, chosen.config.OUTPUT_DIR)
    with _progress() as tell, options.foreign_output():
        from inspector.distributed.report import ddp as run

        report = run(
            chosen.model,
            chosen.inputs,
            nproc=nproc,
            settings=dict(entry.split("=", 1) for entry in overrides),  # type: ignore[arg-type]
            config=config,
            device=device,
            resume=resume,
            kill=kill,
            nnodes=nnodes,
            node_rank=node_rank,
            rdzv_endpoint=rdzv_endpoint,
            model_args=chosen.model_args,
            weights=weights,
            seed=chosen.seed,
            verbose=verbose,
            tell=tell,
        )
    if report is None:  # another rank, or another machine, has it
        return
    options.emit(report, format, output)
    if report.verdict == "fail":
        raise typer.Exit(1)


def _check_resume(resume: bool, folder: Any) -> None:
    from inspector.core.errors import InspectError

    if resume and not folder:
        raise InspectError("--resume needs the folder of an earlier run", "give --output-dir runs/one")


def _settings(beat: dict[str, Any]) -> None:
    """Print the merged settings, once, before the processes start."""
    if "settings" in beat:
        print(beat["settings"], file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar with loss, accuracy and images/s on standard error, on a terminal only."""
    if not sys.stderr.isatty():
        yield _settings
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, said="")

        def tell(beat: dict[str, Any]) -> None:
            _settings(beat)
            said = [f"loss {beat['loss']:.3f}"] if beat.get("loss") is not None else []
            said += [f"accuracy {beat['accuracy']:.1%}"] if beat.get("accuracy") is not None else []
            said += [f"{beat['rate']:.0f} images/s"] if beat.get("rate") else []
            bar.update(
                task,
                description=beat.get("phase", ""),
                total=beat.get("of"),
                completed=beat.get("step") or 0,
                said=", ".join(said),
            )

        yield tell
