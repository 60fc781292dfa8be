"""The options that commands share, and the settings used when an option is not passed."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from inspector.cli.choices import Attn, Format, Phase
from inspector.cli.completion import model_names, module_names
from inspector.core.errors import InspectError
from inspector.core.trust import refuse_in_file
from inspector.core.values import yaml_value


def either(option: Any, held: Any) -> Any:
    """The option's value; without it, the setting's."""
    return held if option is None else option


@dataclass(frozen=True)
class Setting:
    """The setting behind an option: `merge` makes one value of what the option (None where it is not
    given) and the setting say. `unless`: options that, where they are given, make the setting idle."""

    key: str
    merge: Callable[[Any, Any], Any] = either
    unless: tuple[str, ...] = ()


def globs(texts: list[str] | None) -> list[list[str]] | None:
    """The globs of each stage, separated by spaces or commas."""
    stages = [text.replace(",", " ").split() if isinstance(text, str) else [] for text in texts or []]
    if not all(stages):
        raise InspectError("--stage is empty", "write the globs of one stage: --stage 'conv1 bn1'")
    return stages or None


def arguments(texts: list[str] | None, held: Any) -> dict[str, Any]:
    """`name=value` texts over the arguments of the settings, values read as YAML."""
    refuse_in_file(held, "MODEL.ARGS")
    values = dict(held)
    for text in texts or []:
        name, value = _named(text, "--model-arg")
        values[name] = yaml_value(value, f"--model-arg {text!r}")
    return values


def _named(text: str, option: str) -> tuple[str, str]:
    """The two sides of `name=value`."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise InspectError(f"cannot read {option} {text!r}", "write name=value")
    return name.strip(), value


def plain_values(texts: list[str] | None) -> list[str]:
    """`name=value` texts as the input grammar writes plain values, `name:=value`."""
    named = [_named(text, "--arg") for text in texts or []]
    for name, value in named:
        if _TENSOR.fullmatch(value.strip()):
            raise InspectError(f"--arg {name} is a plain value, and {value!r} a tensor", "use --input for it")
    return [":=".join(pair) for pair in named]


_TENSOR = re.compile(r"(?:b?float|u?int|bool|complex)\w*\[[\d, ]*\]|\d+(?:x\d+)+")
"""How --input writes a tensor."""


def device_names(incomplete: str) -> list[str]:
    """For the shell: the devices whose peaks are known."""
    from inspector.core.devices import short_names

    return short_names(incomplete.lower())


def numbers(text: Optional[str]) -> list[int] | None:
    """Whole numbers, separated by commas."""
    if text is None:
        return None
    words = [word for word in text.split(",") if word.strip()]
    if not words:
        raise InspectError("--batch is empty", "leave it out, or write e.g. --batch 1,8,64")
    try:
        return [int(word) for word in words]
    except ValueError as error:
        raise InspectError(f"cannot read --batch {text!r}", "write e.g. --batch 1,8,64") from error


def assignments(texts: list[str] | None) -> dict[str, str]:
    """`KEY=VALUE` texts as a dict."""
    values = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise InspectError(f"--set {text!r} has no value", "write --set KEY VALUE")
        values[key] = value
    return values


def _debugging(ctx: typer.Context, value: bool) -> bool:
    ctx.obj["debug"] = value
    return value


Stages = Annotated[
    Optional[list[str]],
    typer.Option(
        "--stage",
        metavar="GLOBS",
        callback=globs,
        autocompletion=module_names,
        help="One stage of your own: globs of modules, 'conv1 bn1'; repeat in order.",
    ),
]

FIRST = {
    "model": Annotated[
        Optional[str],
        typer.Argument(
            help="resnet50 (default), NAME@ENTRY, timm:NAME, hf:PATH, hf:ORG/NAME[@REVISION], file.py:ATTR,"
            " package.module:ATTR, or an exported net.pt2.",
            autocompletion=model_names,
        ),
        Setting("MODEL.NAME"),
    ],
    "inputs": Annotated[
        Optional[list[str]],
        typer.Option(
            "--input",
            metavar="SHAPE",
            help="1x3x224x224, 'float32[1,3,224,224]' or 'ids=int64[1,128]'; repeatable.",
        ),
        Setting("INPUT", lambda texts, held: texts or list(held) or None),
    ],
    "args": Annotated[
        Optional[list[str]],
        typer.Option(
            "--arg",
            metavar="NAME=VALUE",
            callback=plain_values,
            help="For the call, a plain value (YAML): causal=false; repeatable.",
        ),
    ],
    "call": Annotated[
        Optional[str], typer.Option(metavar="METHOD", help="Run this method in place of the forward.")
    ],
    "model_args": Annotated[
        Optional[list[str]],
        typer.Option(
            "--model-arg", metavar="NAME=VALUE", help="For the model's constructor (YAML value); repeatable."
        ),
        Setting("MODEL.ARGS", arguments),
    ],
    "lora": Annotated[
        Optional[str],
        typer.Option(
            metavar="r=16,targets=A+B", help="With LoRA or IA3 adapters on these layers (extra: peft)."
        ),
    ],
    "attn": Annotated[
        Optional[Attn],
        typer.Option(
            callback=lambda name: "flex_attention" if name == "flex" else name,
            help="hf: attention as written out, as torch's one function, or as flex_attention.",
        ),
    ],
    "trust_remote_code": Annotated[
        bool,
        typer.Option("--trust-remote-code", help="hf: run the code that comes with the configuration."),
    ],
    "weights": Annotated[
        Optional[Path],
        typer.Option(metavar="FILE", help="Load this .pth or .safetensors file into the model first."),
    ],
    "phase": Annotated[Phase, typer.Option(help="forward, or train: forward and backward in train mode.")],
    "device": Annotated[
        Optional[str],
        typer.Option(help="Count on meta, cpu or cuda. Default: meta, cpu where meta cannot."),
    ],
}
"""What is inspected, and how it runs: in the help before the command's own options."""

LAST = {
    "seed": Annotated[
        Optional[int],
        typer.Option(help="Seed of inputs and weights where values matter."),
        Setting("SEED"),
    ],
    "format": Annotated[Optional[Format], typer.Option(help="Default: table.")],
    "output": Annotated[
        Optional[Path],
        typer.Option("--output", "-o", help="Write to this file; its suffix chooses the format."),
    ],
    "wide": Annotated[
        bool, typer.Option("--wide", help="On a terminal: all columns, and lines as long as they are.")
    ],
    "config": Annotated[Optional[Path], typer.Option(help="YAML file of settings.")],
    "settings": Annotated[
        Optional[list[str]],
        typer.Option("--set", metavar="KEY VALUE", help="Override one setting, e.g. SEED 1; repeatable."),
    ],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to standard error.")],
    "debug": Annotated[
        bool,
        typer.Option(
            "--debug", is_eager=True, callback=_debugging, help="Show the whole traceback of an error."
        ),
    ],
}
"""How the result is written, and everything around it: in the help after the command's own options."""

DEFAULTS = {"phase": "forward", "trust_remote_code": False, "wide": False, "verbose": False, "debug": False}
"""Of shared options that are not None."""
