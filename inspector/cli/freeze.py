"""Freeze the first stages of a model, and prove by training steps that they rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli import options


def freeze(
    model: options.Model = None,
    at: Annotated[
        Optional[int], typer.Option(help="Freeze so many stages, from the stem on; see: inspect stages.")
    ] = None,
    scheme: Annotated[
        Optional[str],
        typer.Option(help="Whose N --at is: maskrcnn (default), detectron2, mmdet, torchvision."),
    ] = None,
    pattern: Annotated[
        Optional[list[str]],
        typer.Option(help="Freeze the parameters that match this glob, e.g. 'layer1.*'; repeatable."),
    ] = None,
    norm: Annotated[
        Optional[str],
        typer.Option(
            help="Batch norm of the frozen part: freeze (weight, bias, statistics; default), eval"
            " (statistics only), train (as requires_grad=False alone leaves it: its statistics move)."
        ),
    ] = None,
    stage: options.StageMap = None,
    verify: Annotated[bool, typer.Option(help="Train a copy and compare bytes.")] = True,
    ddp: Annotated[
        bool, typer.Option(help="Include in the verification a step of two DDP processes.")
    ] = True,
    weights: options.Weights = None,
    save: Annotated[
        Optional[Path],
        typer.Option(help="Write the state_dict here, and the frozen names to FILE.json next to it."),
    ] = None,
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
    """Freeze the first stages of a model, and prove by training steps that they rest.

    Without --at and --pattern nothing is changed: what the model itself has frozen is verified.
    """
    options.check_output(format, output)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    wanted = chosen.config.FREEZE
    if save is not None:
        from inspector.models.weights import check_save

        check_save(save, output)
    from inspector.freezing.handle import freeze as apply

    with options.foreign_output():
        handle = apply(
            chosen.model,
            at if at is not None else wanted.AT,
            scheme=scheme if scheme is not None else wanted.SCHEME,
            patterns=pattern or wanted.PATTERNS,
            norm=norm if norm is not None else wanted.NORM,
            stages=options.stage_map(stage or wanted.STAGES),
            inputs=chosen.inputs,
            model_args=chosen.model_args,
            weights=weights,
            seed=chosen.seed,
        )
        result = handle.verify(ddp=ddp) if verify else handle.report()
        if save is not None:
            for path in handle.save(save):
                result.header.append(("saved", str(path)))
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)
