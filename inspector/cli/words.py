"""Errors speak Python; on the command line the keywords in them become the command's options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from inspector.core.errors import InspectError

_KEYWORD = re.compile(r"`(\w+)=([^`]*)`")
_SAID = {
    '`model_args={"trust_remote_code": True}`': "--trust-remote-code",
    "`error.__cause__`": "--debug",
    '`report.save("FILE.json")`': "--format json --output FILE",
    '`logging.getLogger("inspector")`': "--verbose",
}
"""What Python has and the command line does in its own way."""


def as_options(error: InspectError, parameters: Iterable[Any]) -> None:
    """Say `error` in the options of the command that has these parameters: `` `phase="train"` `` becomes
    `--phase train`."""
    said = _translator(parameters)
    error.message, error.hint = said(error.message), error.hint and said(error.hint)


def in_report(report: Any, parameters: Iterable[Any]) -> None:
    """The same of what a report says people could do: in its findings, and in columns of errors."""
    said = _translator(parameters)

    def reworded(table: Any) -> Any:
        if "error" not in table or not any("`" in str(text) for text in table["error"]):
            return table
        return table.assign(error=[said(text) if isinstance(text, str) else text for text in table["error"]])

    report.findings = [
        replace(finding, message=said(finding.message)) if "`" in finding.message else finding
        for finding in report.findings
    ]
    report.tables = {name: reworded(table) for name, table in report.tables.items()}
    report.sections = [
        replace(section, frame=reworded(section.frame), note=said(section.note))
        for section in report.sections
    ]


def _translator(parameters: Iterable[Any]) -> Callable[[str], str]:
    named = {parameter.name: parameter for parameter in parameters}

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        parameter: Any = named.get(name)
        flag = max(parameter.opts, key=len) if parameter is not None else f"--{name.replace('_', '-')}"
        if value == "False" and parameter is not None and parameter.secondary_opts:
            return str(parameter.secondary_opts[0])
        return flag if value in ("", "True") else " ".join(f"{flag} {text}" for text in _texts(name, value))

    def said(text: str) -> str:
        for python, words in _SAID.items():
            text = text.replace(python, words)
        return _KEYWORD.sub(option, text)

    return said


def _texts(name: str, value: str) -> list[str]:
    """A keyword's value as it is typed, one text for each time that its option is given."""
    import ast  # an error is rare, and its import costs every start
    import shlex

    try:
        content = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a placeholder: N, FILE
        return [value]
    if isinstance(content, dict):
        between = " " if name == "settings" else "="
        return [f"{key}{between}{entry}" for key, entry in content.items()]
    if isinstance(content, list) and all(isinstance(entry, int) for entry in content):
        return [",".join(map(str, content))]
    return [shlex.quote(str(entry)) for entry in (content if isinstance(content, list) else [content])]
