"""List the ordered stages of a backbone: what `freeze --at N` counts."""

from __future__ import annotations

from inspector.cli import options


def stages(
    model: options.Model = None,
    stage: options.StageMap = None,
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
    given = options.stage_map(stage)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    from inspector.backbones.report import stages as make

    with options.foreign_output():
        result = make(
            chosen.model, chosen.inputs, given=given, model_args=chosen.model_args, seed=chosen.seed
        )
    options.emit(result, format, output)
