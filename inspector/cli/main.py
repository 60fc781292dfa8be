"""The command line: commands registered by name, and the boundary where errors become one line."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from typing import Any

import typer

from inspector.cli.bench import bench
from inspector.cli.cache import cache
from inspector.cli.ddp import ddp
from inspector.cli.diff import diff
from inspector.cli.env import env
from inspector.cli.freeze import freeze
from inspector.cli.init import init
from inspector.cli.memory import memory
from inspector.cli.models import models
from inspector.cli.params import params
from inspector.cli.profile import profile
from inspector.cli.reconcile import reconcile
from inspector.cli.report import report
from inspector.cli.stages import stages
from inspector.cli.table import table
from inspector.core.errors import InspectError
from inspector.core.version import __version__

app = typer.Typer(
    name="inspect",
    help="How big a PyTorch model is, what it computes, and how we know.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    profile, memory, params, reconcile, stages, freeze, init, bench, ddp, table, diff, report, models, env,
    cache,
):  # fmt: skip
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"inspector {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a claim is false, 2 not done."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is wrong, and nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        return _explain(error, "--debug" in words)


def _run(words: list[str]) -> int:
    try:
        result = app(args=_joined(words or ["--help"]), prog_name="inspect", standalone_mode=False)
    except typer.Exit as leaving:
        if leaving.exit_code == 130:  # newer typers turn Ctrl-C into this, without a word
            raise KeyboardInterrupt from leaving
        return int(leaving.exit_code)
    except typer.Abort as aborted:
        raise KeyboardInterrupt from aborted
    except _usage_error() as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "inspect"
        message = error.format_message().replace("\n", " ")
        raise InspectError(message, f"see: {path} --help") from error
    if result == 130:  # and some return it
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _usage_error() -> Any:
    """click's base class of usage errors, in the click that this typer uses (newer ones carry it)."""
    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _joined(words: list[str]) -> list[str]:
    """`--set KEY VALUE`, as yacs users write it, becomes `--set KEY=VALUE`."""
    joined = list(words)
    for position in range(len(joined) - 2, -1, -1):
        key, value = joined[position + 1], joined[position + 2 : position + 3]
        if joined[position] == "--set" and "=" not in key and value:
            joined[position + 1 : position + 3] = [f"{key}={value[0]}"]
    return joined


def _explain(error: Exception, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    known = isinstance(error, InspectError)
    message = error.message if isinstance(error, InspectError) else _unexpected(error)
    hint = error.hint if isinstance(error, InspectError) else None
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    if hint or not known:
        print(f"hint: {hint or 'see the whole error with --debug'}", file=sys.stderr)
    return 2


def _unexpected(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def entry() -> None:
    """The console script. SIGTERM ends it as Ctrl-C does, so that processes and files of its own go with it;
    not under torchrun, whose workers must end at once, also inside a collective."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        signal.signal(signal.SIGTERM, _terminated)
    sys.exit(main())


def _terminated(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
