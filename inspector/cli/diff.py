"""Hold a report against a baseline, and fail where something got worse."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from inspector.cli import options
from inspector.cli.progress import progress

if TYPE_CHECKING:
    from inspector.regress.compare import Comparison
    from inspector.regress.rules import Rules

_Names = Optional[list[str]]


def diff(
    base: Annotated[str, typer.Argument(help="A JSON report of any command, or git:REVISION:PATH.")],
    head: Annotated[
        Optional[str],
        typer.Argument(help="The same, or a model's spec. Default: the models of a table, counted now."),
    ] = None,
    tolerance: Annotated[
        _Names, typer.Option(help="Allow a metric to move: macs=1%, params=1000; repeatable.")
    ] = None,
    max: Annotated[_Names, typer.Option("--max", help="A budget of HEAD: params=26M; repeatable.")] = None,
    only: Annotated[_Names, typer.Option(help="Compare only these metrics (globs); repeatable.")] = None,
    ignore: Annotated[_Names, typer.Option(help="Leave out these metrics (globs); repeatable.")] = None,
    fail_on: Annotated[
        Optional[str],
        typer.Option(help="States that fail, or none. Default: regressed,missing,invalid,incomparable."),
    ] = None,
    effect: Annotated[Optional[str], typer.Option(help="Least slowdown that fails. Default: 5%.")] = None,
    update_baseline: Annotated[
        bool, typer.Option("--update-baseline", help="Write what changed into BASE.")
    ] = False,
    input: options.Input = None,
    model_arg: options.ModelArg = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Processes that count.")] = 1,
    seed: options.Seed = None,
    format: options.Format = None,
    output: Annotated[
        Optional[list[Path]],
        typer.Option("--output", "-o", help="Also to this file; its suffix chooses the format; repeatable."),
    ] = None,
    config: options.Config = None,
    set: options.Set = None,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Compare two reports, or a baseline with the models as they are; exit 1 where something got worse.

    With GITHUB_STEP_SUMMARY set, the comparison is also appended there.
    """
    for file in output or [None]:  # type: ignore[list-item]
        options.check_output(format if len(output or ()) < 2 else None, file)
    from inspector.regress.rules import rules

    allowed = rules(
        tolerance=tolerance or (),
        budget=max or (),
        only=only or (),
        ignore=ignore or (),
        fail_on=fail_on,
        effect=effect,
    )
    if update_baseline and _begun(base, head):
        return
    from inspector.core.log import to_console
    from inspector.regress.diff import compared
    from inspector.regress.source import is_report

    to_console(verbose)
    how: dict[str, Any] = {}
    if head is None or not is_report(head):  # settings load torch
        chosen = options.settings(config, set, verbose, inputs=input, model_args=model_arg, seed=seed)
        how = {"inputs": chosen.inputs, "model_args": chosen.model_args, "seed": chosen.seed, "jobs": jobs}
    with options.foreign_output(), progress() as tell:
        found = compared(base, head, allowed, **how, tell=tell)
    _emit(found, format, output or [])
    verdict = _updated(base, found, allowed) if update_baseline else found.verdict
    if verdict == "fail":
        raise typer.Exit(1)


def _emit(found: Comparison, format: str | None, files: list[Path]) -> None:
    """Every file that was asked for, standard output where none was, and GitHub's summary."""
    from inspector.core.errors import InspectError
    from inspector.core.files import write_whole
    from inspector.regress.written import add_to_summary, write
    from inspector.reporting.formats import format_of

    for file in files:
        write_whole(file, write(found, format_of(file) if len(files) > 1 else format or format_of(file)))
    if not files:
        screen = sys.stdout.isatty()
        width = None
        if screen:
            from inspector.reporting.formats.table import terminal_width

            width = terminal_width()
        print(write(found, format or "table", screen and "NO_COLOR" not in os.environ, width), end="")
        sys.stdout.flush()
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            if not add_to_summary(found, summary):
                print("the step summary is full: nothing was added to it", file=sys.stderr)
        except InspectError as error:  # the comparison itself is done, and its exit code matters
            print(f"{error.message}: {error.hint}", file=sys.stderr)


def _begun(base: str, head: str | None) -> bool:
    """A baseline that is not there yet becomes HEAD, as it is."""
    from inspector.regress.source import GIT, is_report, read

    file = Path(base)
    if base.startswith(GIT) or file.exists() or head is None or not is_report(head):
        return False
    from inspector.core.files import write_whole
    from inspector.reporting.schema import as_text

    write_whole(file, as_text(read(head).content) + "\n")
    print(f"wrote {file}: a new baseline", file=sys.stderr)
    return True


def _updated(base: str, found: Comparison, allowed: Rules) -> str:
    """Take over what changed; gives the verdict of HEAD against the new baseline."""
    from inspector.regress.baseline import update
    from inspector.regress.compare import compare
    from inspector.regress.source import read

    file, rows = update(base, found)
    named = ", ".join(row or found.head.command for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    print(f"updated {file}: {named}{more}" if rows else f"nothing to update in {file}", file=sys.stderr)
    now = read(base)
    now.rows = {name: row for name, row in now.rows.items() if name in found.base.rows or name in rows}
    return compare(now, found.head, allowed).verdict
