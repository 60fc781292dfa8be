"""What every command does: build its signature with the shared options, call, and emit the Report."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import reduce
from importlib import import_module
from operator import getitem
from pathlib import Path
from typing import Any, get_args

import typer

from inspector.cli import progress as bars
from inspector.cli.options import DEFAULTS, FIRST, LAST, Setting, assignments
from inspector.cli.output import check, emit
from inspector.cli.words import as_options, in_report
from inspector.core.collection import paused
from inspector.core.errors import InspectError
from inspector.core.log import to_console
from inspector.core.settings import defaults
from inspector.core.trust import TRUST
from inspector.core.visible import visible

BUILDING = {"lora": "peft", "attn": "attn_implementation", "trust_remote_code": TRUST}
"""Options that say how a model is built, and what they are among its arguments."""
OWN = ("args", *BUILDING, "format", "output", "wide", "config", "settings", "verbose", "debug")
"""What the command line keeps for itself; a function gets those that it has a keyword for."""
Declared = Callable[..., None]
Run = Callable[..., int]


def command(
    function: str,
    shared: str = "",
    *,
    form: str = "table",
    progress: Any = bars.steps,
    before: Callable[[Mapping[str, Any]], None] = lambda values: None,
    after: Callable[[Any], None] = lambda report: None,
    early: Callable[[Mapping[str, Any]], Sequence[str]] = lambda keywords: (),
) -> Callable[[Declared], Run]:
    """Make a command of the function at `function` ("package.module:name"), which returns a Report.

    What is decorated has as parameters the options that only this command has, and as docstring its help.
    shared: names of FIRST and LAST that it has too. `form`: the format on standard output. `progress`: what
    the keyword `tell` of the function gets. `before` may refuse values, `after` sees the Report last.
    `early`: what processes that the function forks will import, beside this one (nothing: it forks none).
    """

    def decorate(declared: Declared) -> Run:
        signature = _signature(declared, shared.split())

        def run(ctx: typer.Context, **values: Any) -> int:
            files = _files(values["output"])
            to_console(values["verbose"])
            try:
                check(values["format"], form, files, values.get("save"))
                before(values)
                keywords = _keywords(values, signature)
                try:
                    title = " ".join(filter(None, (declared.__name__, _model(keywords))))
                    with _forks(early(keywords)):
                        report = _call(function, keywords, values, progress(title))
                except (InspectError, KeyboardInterrupt) as error:  # what was measured by then is shown
                    partial = getattr(error, "report", None)
                    if partial is not None and (files or _says_something(error)):
                        emit(partial, values["format"], form, files, values["wide"])
                    raise
            except InspectError as error:
                as_options(error, ctx.command.params)
                raise
            if report is None:  # another rank, or another machine, has it
                return 0
            in_report(report, ctx.command.params)
            emit(report, values["format"], form, files, values["wide"])
            if files and report.verdict == "fail":
                _tell_failures(report)
            after(report)
            return 1 if report.verdict == "fail" else 0

        run.__name__, run.__doc__, run.__annotations__ = declared.__name__, declared.__doc__, {}
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.function = function  # type: ignore[attr-defined]
        return run

    return decorate


@contextmanager
def _forks(modules: Sequence[str]) -> Iterator[None]:
    if not modules:
        yield
        return
    from inspector.core.forking import nursery

    with nursery(*modules):
        yield


def _says_something(error: Any) -> bool:
    """Whether something ran before the error."""
    return not hasattr(error, "trace") or bool(error.trace.ops)


_TOLD = 10


def _tell_failures(report: Any) -> None:
    """What failed, on standard error: with the report in files, a log would show an exit code alone."""
    from inspector.reporting.answers import answer

    failed = report.failures()
    lines = [answer(report), *(f"FAIL  {text}" for text in failed[:_TOLD])]
    if len(failed) > _TOLD:
        lines.append(f"and {len(failed) - _TOLD} more")
    print("\n".join(visible(line) for line in lines if line), file=sys.stderr)


def _signature(declared: Declared, shared: list[str]) -> inspect.Signature:
    """The shared options around the command's own; one that it declares itself is the one that it has."""
    declares = inspect.signature(declared, eval_str=True).parameters
    own = {name: option.replace(kind=option.KEYWORD_ONLY) for name, option in declares.items()}
    names = [*shared, "format", "output", "wide", "verbose", "debug"]
    names += ["args"] if "inputs" in shared else []
    names += BUILDING if "model_args" in shared else []
    if any(_setting(option) for name, option in {**FIRST, **LAST}.items() if name in shared):
        names += ["config", "settings"]

    def parameter(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
        kind = inspect.Parameter.KEYWORD_ONLY
        return inspect.Parameter(name, kind, default=default, annotation=annotation)

    def some(group: Mapping[str, Any]) -> list[inspect.Parameter]:
        return [
            own[name] if name in own else parameter(name, option, DEFAULTS.get(name))
            for name, option in group.items()
            if name in names or name in own
        ]

    mine = [option for name, option in own.items() if name not in {**FIRST, **LAST}]
    context = parameter("ctx", typer.Context, inspect.Parameter.empty)
    return inspect.Signature([context, *some(FIRST), *mine, *some(LAST)])


def _setting(option: Any) -> Setting | None:
    return next((entry for entry in get_args(option) if isinstance(entry, Setting)), None)


def _files(output: Any) -> list[Path]:
    return list(output) if isinstance(output, (list, tuple)) else [output] if output is not None else []


def _keywords(values: dict[str, Any], signature: inspect.Signature) -> dict[str, Any]:
    """What the function is called with: options over --set, over the file. What none of them sets is left
    to the function's own default."""
    passed: dict[str, Any] = {name: None if value in ([], ()) else value for name, value in values.items()}
    if passed.get("args"):
        passed["inputs"] = [*(passed["inputs"] or ()), *passed["args"]]
    keywords = {name: value for name, value in passed.items() if name not in OWN}
    if "config" in values:
        values["settings"] = assignments(values["settings"])
        node = _settings(values["config"], values["settings"])
        for name, parameter in signature.parameters.items():
            setting = _setting(parameter.annotation)
            if setting is not None and not any(passed[other] for other in setting.unless):
                keywords[name] = setting.merge(passed[name], reduce(getitem, setting.key.split("."), node))
    building = {BUILDING[name]: passed[name] for name in BUILDING if passed.get(name)}
    if building:
        keywords["model_args"] = {**(keywords.get("model_args") or {}), **building}
    return {name: value for name, value in keywords.items() if value is not None}


def _settings(file: Path | None, overrides: Mapping[str, str]) -> Mapping[str, Any]:
    """The settings; without a change to any they are what they are without yacs."""
    if file is None and not overrides:
        return defaults()
    from inspector.core.config import load

    return load(file, overrides)  # type: ignore[no-any-return]


def _model(keywords: Mapping[str, Any]) -> str:
    """What the command is about, for the title of its bar."""
    named = keywords.get("model") or keywords.get("models") or keywords.get("base") or ""
    return " ".join(map(str, named)) if isinstance(named, list) else str(named)


def _call(place: str, keywords: dict[str, Any], values: Any, progress: Any) -> Any:
    """The report of the function at `place`. What a user's model prints goes to standard error: standard
    output is for the result. The bar stands while torch is loaded, too."""
    with redirect_stdout(sys.stderr), progress as tell:
        function = _load(place)
        takes = inspect.signature(function).parameters
        keywords.update(
            {name: values[name] for name in OWN if name in takes and values.get(name) is not None}
        )
        return function(**keywords, **({"tell": tell} if "tell" in takes else {}))


def _load(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    with paused():
        return getattr(import_module(f"inspector.{module}"), name)  # type: ignore[no-any-return]
