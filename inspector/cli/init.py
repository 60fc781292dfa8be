"""Initialise a model by a scheme and verify it, or verify which initialisation it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from inspector.cli.choices import Expected, Fan, Scheme, listed
from inspector.cli.command import command
from inspector.cli.completion import module_names
from inspector.cli.options import Setting

_NAMED = ("scheme", "expect")
"""A scheme that is named here does not take the options of the settings' scheme."""


@command("initialization.report:init", "model inputs model_args weights seed")
def init(
    scheme: Annotated[
        Optional[Scheme],
        typer.Option(
            metavar="NAME",
            help=f"Apply one of {listed(Scheme)} (torch's own). Default: the first.",
        ),
        Setting("INIT.SCHEME", unless=_NAMED),
    ] = None,
    expect: Annotated[
        Optional[Expected],
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
        Setting("INIT.A", unless=_NAMED),
    ] = None,
    mode: Annotated[Optional[Fan], typer.Option(help="Fan of kaiming. Default: fan_in.")] = None,
    gain: Annotated[Optional[float], typer.Option(help="Gain of xavier and orthogonal. Default: 1.")] = None,
    std: Annotated[
        Optional[float], typer.Option(help="Spread of normal and trunc_normal. Default: 0.02.")
    ] = None,
    value: Annotated[Optional[float], typer.Option(help="What constant fills in.")] = None,
    layers: Annotated[
        Optional[list[str]],
        typer.Option(
            "--layers",
            metavar="GLOB",
            autocompletion=module_names,
            help="Over layers: 'conv*', 'layer1.*'; repeatable. Default: every layer with a weight "
            "of two or more dimensions; embeddings, recurrent and norm layers must be named.",
        ),
        Setting("INIT.LAYERS"),
    ] = None,
    bias: Annotated[
        Optional[str],
        typer.Option(
            metavar="auto|keep|zeros|default|VALUE",
            help="Default: auto, zeros for c2_xavier_fill and c2_msra_fill, torch's own for default, else "
            "keep, as torch.nn.init leaves a bias alone.",
        ),
        Setting("INIT.BIAS", unless=_NAMED),
    ] = None,
    save: Annotated[
        Optional[Path], typer.Option(help="Write the initialised state_dict here (.pth, .safetensors).")
    ] = None,
    propagation: Annotated[
        bool, typer.Option(help="Run the model, to see the spread of its activations and gradients.")
    ] = True,
) -> None:
    """Initialise a model by a scheme and verify it, or verify (--expect) which initialisation it has."""
