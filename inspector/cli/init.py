"""Initialise a model by a scheme and verify it, or verify which initialisation it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli import options

_SCHEMES = (
    "kaiming_uniform (default), kaiming_normal, xavier_uniform, xavier_normal, trunc_normal, normal, "
    "orthogonal, zeros, ones, constant, c2_xavier_fill, c2_msra_fill or default (torch's own)"
)


def init(
    model: options.Model = None,
    scheme: Annotated[Optional[str], typer.Option(help=f"Apply {_SCHEMES}.")] = None,
    expect: Annotated[
        Optional[str],
        typer.Option(
            metavar="auto|NAME",
            help="Verify only: every tensor against this scheme, or (auto) name the law each one has. "
            "MODEL may then be a .pth or .safetensors file.",
        ),
    ] = None,
    a: Annotated[
        Optional[float],
        typer.Option(
            "--a",
            help="Slope of kaiming's leaky ReLU. Default: 1 for kaiming_uniform (Caffe2's XavierFill), "
            "0 for kaiming_normal (ReLU).",
        ),
    ] = None,
    mode: Annotated[
        Optional[str], typer.Option(metavar="fan_in|fan_out", help="Fan of kaiming. Default: fan_in.")
    ] = None,
    gain: Annotated[Optional[float], typer.Option(help="Gain of xavier and orthogonal. Default: 1.")] = None,
    std: Annotated[
        Optional[float], typer.Option(help="Spread of normal and trunc_normal. Default: 0.02.")
    ] = None,
    value: Annotated[Optional[float], typer.Option(help="What constant fills in.")] = None,
    layers: Annotated[
        Optional[list[str]],
        typer.Option(
            "--layers",
            help="Glob over layers: 'conv*', 'layer1.*'; repeatable. Default: every layer with a weight "
            "of two or more dimensions; embeddings, recurrent and norm layers must be named.",
        ),
    ] = None,
    bias: Annotated[
        Optional[str],
        typer.Option(
            metavar="auto|keep|zeros|default|VALUE",
            help="Default: auto, zeros for c2_xavier_fill and c2_msra_fill, torch's own for default, else "
            "keep, as torch.nn.init leaves a bias alone.",
        ),
    ] = None,
    weights: options.Weights = None,
    save: Annotated[
        Optional[Path], typer.Option(help="Write the initialised state_dict here (.pth, .safetensors).")
    ] = None,
    propagation: Annotated[
        bool, typer.Option(help="Run the model, to see the spread of its activations and gradients.")
    ] = True,
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
    """Initialise a model by a scheme and verify it, or verify (--expect) which initialisation it has."""
    options.check_output(format, output)
    chosen = options.settings(
        config, set, verbose, model=model, model_args=model_arg, inputs=input, seed=seed
    )
    if save is not None:
        from inspector.models.weights import check_save

        check_save(save, output)
    named = chosen.config.INIT if scheme is None and expect is None else None
    from inspector.initialization.report import init as make

    with options.foreign_output():
        result = make(
            chosen.model,
            scheme or (named.SCHEME if named else None),
            expect=expect,
            a=named.A if a is None and named else a,
            mode=mode,
            gain=gain,
            std=std,
            value=value,
            layers=layers or (chosen.config.INIT.LAYERS or None),
            bias=bias or (named.BIAS if named else "auto"),
            seed=chosen.seed,
            weights=weights,
            inputs=chosen.inputs,
            model_args=chosen.model_args,
            save=save,
            propagation=propagation,
        )
    options.emit(result, format, output)
    if result.verdict == "fail":
        raise typer.Exit(1)
