"""List the ordered stages of a backbone: what `freeze --at N` counts."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from inspector.cli import options

Stage = Annotated[
    Optional[list[str]],
    typer.Option(
        "--stage",
        metavar="GLOBS",
        help="Name a stage yourself: globs of its modules, e.g. 'conv1 bn1'; once for each, in order.",
    ),
]


def stages(
    model: options.Model = None,
    stage: Stage = None,
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
    """List the ordered stages of a backbone, their parameters and resolution. Stage 0 is the stem."""
    options.check_output(format, output)
    given = stage_globs(stage)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    from inspector.api.stages import stages as make

    with options.foreign_output():
        result = make(
            chosen.model, chosen.inputs, given=given, model_args=chosen.model_args, seed=chosen.seed
        )
    options.emit(result, format, output)


def stage_globs(texts: list[str] | None) -> list[list[str]] | None:
    """What --stage was given: the globs of each stage, separated by spaces or commas."""
    from inspector.errors import InspectError

    stages = [text.replace(",", " ").split() for text in texts or []]
    if not all(stages):
        raise InspectError("--stage names nothing", "write the globs of one stage: --stage 'conv1 bn1'")
    return stages or None
