"""The command line: the table of commands, and the boundary where errors become one line."""

from __future__ import annotations

import os
import re
import signal
import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from inspector.cli.completion import COMPLETING, in_bash
from inspector.cli.conversion import lightened
from inspector.cli.guide import COMMANDS, START, write_commands, write_examples
from inspector.cli.options import FIRST, LAST
from inspector.cli.output import unless_closed
from inspector.core.collection import leave
from inspector.core.errors import InspectError
from inspector.core.log import without_libraries_own_lines
from inspector.core.naming import nearest
from inspector.core.version import __version__
from inspector.core.visible import visible, visible_lines
from inspector.core.whose import own_process

INTERRUPTED = 130
_CHOICE = re.compile(r"'(?P<word>[^']*)' is not one of (?P<known>'.*')\.?$")


class Command(TyperCommand):
    """A command whose `--set KEY VALUE`, as yacs users write it, is `--set KEY=VALUE`, and whose help has
    its options in groups."""

    def get_params(self, ctx: Any) -> Any:
        return lightened(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[Any]] = {title: [] for title in _GROUPS}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                groups[_group(parameter)].append(record)
        for title, records in groups.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        write_examples(formatter, str(self.name))

    def make_parser(self, ctx: Any) -> Any:
        parser = super().make_parser(ctx)
        option = parser._long_opt.get("--set")
        if option is not None:
            append = option.process

            def process(value: str, state: Any) -> None:
                paired = "=" in value or not state.rargs
                append(value if paired else f"{value}={state.rargs.pop(0)}", state)

            option.process = process  # type: ignore[method-assign]
        return parser


_GROUPS = ("Model and call", "This command", "Result and settings")


def _group(parameter: Any) -> str:
    first, last = _GROUPS[0], _GROUPS[2]
    return (
        first if parameter.name in FIRST else last if parameter.name in {**LAST, "help": None} else _GROUPS[1]
    )


class Commands(TyperGroup):
    """The table of commands, each the function of that name in the file of that name beside this one, and
    imported when it is asked for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        write_commands(formatter)

    def get_params(self, ctx: Any) -> Any:
        return lightened(super().get_params(ctx))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        # an unknown name needs them all, for the nearest
        for name in (cmd_name,) if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                alone = typer.Typer(add_completion=False, rich_markup_mode=None)
                alone.command(name, cls=Command)(getattr(import_module(f"inspector.cli.{name}"), name))
                self.commands[name] = typer.main.get_command(alone)
        return self.commands.get(cmd_name)


app = typer.Typer(
    name="inspect",
    cls=Commands,
    help="How big a PyTorch model is, what it computes, and how we know.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


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
    if os.environ.get(COMPLETING) == "complete_bash":
        return in_bash(lambda: _run(words, {}))
    if not words and COMPLETING not in os.environ:
        print(START, end="")
        return 0
    context: dict[str, Any] = {}
    try:
        code = _run(words, context)
        with unless_closed():
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        return _explain(error, context.get("debug", False))
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        print("interrupted", file=sys.stderr)
    return code


def _run(words: list[str], context: dict[str, Any]) -> int:
    try:
        code = typer.main.get_command(app)(
            args=words, prog_name="inspect", standalone_mode=False, obj=context
        )
    except _usage_error() as error:
        raise _explained(error) from error
    return code if isinstance(code, int) else 0


def _explained(error: Any) -> InspectError:
    """A usage error of click's; for a wrong choice, the nearest valid one."""
    message = error.format_message().replace("\n", " ")
    if choice := _CHOICE.search(message):
        words = choice["known"].replace("'", "").split(", ")
        hint = nearest(choice["word"], words, f"use one of: {', '.join(words)}")
        return InspectError(f"{max(error.param.opts, key=len)} {choice['word']!r} is unknown", hint)
    context = getattr(error, "ctx", None)
    return InspectError(message, f"see: {context.command_path if context else 'inspect'} --help")


def _usage_error() -> Any:
    """click's base class of usage errors, in the click that this typer uses (newer ones carry it)."""
    return next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def _explain(error: Exception, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, InspectError):
        message, hint = error.message, error.hint
    else:
        message, hint = _unexpected(error), "see the full traceback with --debug"
    print(f"error: {visible(' '.join(message.split()))}", file=sys.stderr)
    if hint:
        print(f"hint: {visible_lines(hint)}", file=sys.stderr)
    return 2


def _unexpected(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


class Terminated(BaseException):
    """A signal asked for the end. No SystemExit, which a model's own code may raise and is told of then, and
    no KeyboardInterrupt, which typer takes for itself."""


def entry() -> None:
    """The console script. SIGTERM ends it as Ctrl-C does, so that processes and files of its own go with it;
    not under torchrun, whose workers must end at once, also inside a collective."""
    own_process()
    without_libraries_own_lines()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        code = main()
    except Terminated as end:
        code = 128 + int(end.args[0])
    leave()
    sys.exit(code)


def _terminated(number: int, frame: object) -> None:
    raise Terminated(number)
