"""The options that commands share, and the way from a Report to standard output."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from inspector.core.errors import InspectError

if TYPE_CHECKING:
    from inspector.reporting.report import Report

Model = Annotated[
    Optional[str],
    typer.Argument(
        help="resnet50 (default), NAME@ENTRY, timm:NAME, hf:PATH, file.py:ATTR or package.module:ATTR."
    ),
]
Input = Annotated[
    Optional[list[str]],
    typer.Option("--input", help="1x3x224x224, 'float32[1,3,224,224]' or 'ids=int64[1,128]'; repeatable."),
]
ModelArg = Annotated[
    Optional[list[str]],
    typer.Option("--model-arg", help="name=value for the model's constructor (YAML value); repeatable."),
]
Phase = Annotated[str, typer.Option(help="forward, or train: forward and backward in train mode.")]
Device = Annotated[
    Optional[str],
    typer.Option(help="Count on meta, cpu or cuda. Default: meta, cpu where meta cannot."),
]
Seed = Annotated[Optional[int], typer.Option(help="Seed of inputs and weights where values matter.")]


def _formats() -> str:
    from inspector.reporting.formats import FORMATS

    return ", ".join(FORMATS)


Format = Annotated[Optional[str], typer.Option("--format", help=f"{_formats()}. Default: table.")]
Output = Annotated[
    Optional[Path],
    typer.Option("--output", "-o", help="Write to this file; its suffix chooses the format."),
]
Config = Annotated[Optional[Path], typer.Option("--config", help="YAML file of settings.")]
Set = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY VALUE", help="Override one setting, e.g. SEED 1; repeatable."),
]
StageMap = Annotated[
    Optional[list[str]],
    typer.Option("--stage", help="One stage of your own: globs of modules, 'conv1 bn1'; repeat in order."),
]
Weights = Annotated[Optional[Path], typer.Option(help="Load this .pth or .safetensors file first.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens to standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")]


@dataclass(frozen=True)
class Settings:
    """What a command runs on: its options, over --set, over the file, over the defaults."""

    model: str
    model_args: dict[str, Any]
    inputs: list[str] | None
    seed: int
    config: Any


def settings(
    config: Path | None,
    overrides: list[str] | None,
    verbose: bool,
    *,
    model: str | None = None,
    model_args: list[str] | None = None,
    inputs: list[str] | None = None,
    seed: int | None = None,
) -> Settings:
    """Merge the options that every command shares, and set up the log."""
    from inspector.core.config import completed, load
    from inspector.core.log import to_console

    to_console(verbose)
    node = load(config, overrides)
    said: dict[str, Any] = {
        "MODEL.NAME": model if model is not None else node.MODEL.NAME,
        "MODEL.ARGS": {**node.MODEL.ARGS, **pairs(model_args)},
        "INPUT": inputs or list(node.INPUT),
        "SEED": seed if seed is not None else node.SEED,
    }
    return Settings(
        model=said["MODEL.NAME"],
        model_args=said["MODEL.ARGS"],
        inputs=said["INPUT"] or None,
        seed=said["SEED"],
        config=completed(node, said),
    )


def foreign_output() -> AbstractContextManager[object]:
    """What a user's model prints goes to standard error: standard output is for the result."""
    return redirect_stdout(sys.stderr)


@contextmanager
def partial_report(format_: str | None, output: Path | None) -> Iterator[None]:
    """Of a model that raises, what was counted until then is written before its error is told."""
    try:
        yield
    except InspectError as error:
        report = getattr(error, "report", None)
        if report is not None:
            emit(report, format_, output)
        raise


def emit(report: Report, format_: str | None, output: Path | None) -> None:
    """Write the report to `output` or standard output in the format asked for."""
    from inspector.reporting.formats import format_of, renderer

    chosen = format_ or (format_of(output) if output else "table")
    write = renderer(chosen)
    if output is not None:
        from inspector.core.files import write_whole

        write_whole(output, write(report))
    elif chosen == "table":
        from inspector.reporting.formats.table import render, terminal_width

        screen = sys.stdout.isatty()
        color = screen and "NO_COLOR" not in os.environ
        print(render(report, color, terminal_width() if screen else None), end="")
    else:
        print(write(report), end="")
    sys.stdout.flush()


def check_output(format_: str | None, output: Path | None) -> None:
    """Refuse a wrong format or an unwritable path before the work, not after it."""
    from inspector.reporting.formats import format_of, renderer

    renderer(format_ or (format_of(output) if output else "table"))
    if output is None:
        return
    folder = output.expanduser().resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or output.is_dir():
        raise InspectError(
            f"cannot write {output}", "choose a file in an existing folder that you may write to"
        )


def stage_map(texts: list[str] | None) -> list[list[str]] | None:
    """What --stage was given: the globs of each stage, separated by spaces or commas."""
    lines = [text if isinstance(text, str) else "" for text in texts or []]
    stages = [text.replace(",", " ").split() for text in lines]
    if not all(stages):
        raise InspectError("--stage names nothing", "write the globs of one stage: --stage 'conv1 bn1'")
    return stages or None


def pairs(texts: list[str] | None) -> dict[str, Any]:
    """`name=value` strings as a dict, values read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for text in texts or []:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise InspectError(f"cannot read --model-arg {text!r}", "write name=value")
        try:
            found[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InspectError(
                f"--model-arg {text!r}: the value is not YAML",
                "quote strings with special characters",
            ) from error
    return found
