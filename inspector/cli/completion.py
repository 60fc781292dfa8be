"""What the shell completes: models, their stages and modules. Nothing here loads torch: a shell waits."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import typer

from inspector.core.errors import InspectError

COMPLETING = "_INSPECT_COMPLETE"
"""The variable by which a shell asks."""
_REGISTERED = re.compile(
    r'^@register_model(?:\((?:name="(?P<name>\w+)")?\))?\n(?:@.*\n|    .*\n|\)\n)*def (?P<function>\w+)\(',
    re.MULTILINE,
)
"""How torchvision and timm put a model into their lists; a test compares these with the lists themselves."""
_FILES = (".pt2", ".json", ".safetensors", ".gguf", ".pth")


def registered(package: str) -> list[str]:
    """The models that torchvision or timm lists, read from its source; none where it is not installed."""
    spec = find_spec(package)
    names: set[str] = set()
    for folder in spec.submodule_search_locations or () if spec is not None else ():
        for file in (Path(folder) / "models").rglob("*.py"):
            with suppress(OSError, UnicodeDecodeError):
                text = file.read_text(encoding="utf-8")
                names.update(match["name"] or match["function"] for match in _REGISTERED.finditer(text))
    return sorted(names)


def model_names(incomplete: str) -> list[str]:
    """Specs of models that begin so: names of torchvision and timm, configurations, what files define."""
    source, colon, rest = incomplete.partition(":")
    if colon and source in ("torchvision", "timm"):
        return [f"{source}:{name}" for name in registered(source) if name.startswith(rest)]
    if colon and source == "hf":
        return [f"hf:{name}" for name in (*_downloaded(rest), *_configurations(rest))]
    if colon and source.endswith(".py"):
        return [f"{source}:{name}" for name in definitions(source) if name.startswith(rest)]
    names = [name for name in registered("torchvision") if name.startswith(incomplete)]
    names += [f"{file}:" for file in _entries(incomplete, (".py",))]
    if incomplete and "timm:".startswith(incomplete):
        names += [f"timm:{name}" for name in registered("timm")]
    elif not incomplete:
        names += ["hf:", *(["timm:"] if find_spec("timm") is not None else [])]
    if len(names) == 1 and names[0].endswith(".py:"):
        return [names[0] + name for name in definitions(names[0][:-1])] or names
    return names


def compared_models(incomplete: str) -> list[str]:
    """HEAD of a comparison: a report, or a model."""
    return [*_entries(incomplete, (".json",)), *model_names(incomplete)]


def definitions(file: str) -> list[str]:
    """Classes and functions of a Python file that can be a model; none of one that cannot be read."""
    return [
        node.name
        for node in _parsed(file)
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and not node.name.startswith("_")
        and node.name != "example_inputs"
    ]


def module_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Modules of the model on the line, the last of several globs: those that the last run on it listed,
    else those that its class makes."""
    done, _, last = incomplete.rpartition(" ")
    words = [
        word for word in ctx.args if not word.startswith("-")
    ]  # the line ends in the middle of an option
    spec = str(ctx.params.get("model") or next(iter(words), "resnet50"))
    names = _remembered(spec) or _attributes(spec)
    return [f"{done} {name}".strip() for name in names if name.startswith(last)]


def remember(report: Any) -> None:
    """Keep the names of a report's modules for the shell, unless they cannot be written."""
    from inspector.core.cache import remember_names

    names: list[str] = []
    tables = report.tables
    if "modules" in tables and "path" in tables["modules"]:
        names = [path for path in tables["modules"]["path"] if path]
    elif "stages" in tables:
        names = [name for text in tables["stages"]["modules"] for name in str(text).replace(",", " ").split()]
    with suppress(OSError, InspectError):
        remember_names(str(report.subject.get("name", "")), names)


def _remembered(spec: str) -> list[str]:
    from inspector.core.cache import names_of

    return names_of(spec)


def _attributes(spec: str) -> list[str]:
    """What the constructor of a class in a file assigns to self: most are modules."""
    file, _, name = spec.rpartition(":")
    made = next((n for n in _parsed(file) if isinstance(n, ast.ClassDef) and n.name == name), None)
    begin = next(
        (n for n in (made.body if made else ()) if isinstance(n, ast.FunctionDef) and n.name == "__init__"),
        None,
    )
    targets = [t for n in ast.walk(begin) if isinstance(n, ast.Assign) for t in n.targets] if begin else []
    return [t.attr for t in targets if isinstance(t, ast.Attribute) and getattr(t.value, "id", "") == "self"]


def _parsed(file: str) -> list[ast.stmt]:
    try:
        return ast.parse(Path(file).expanduser().read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError):
        return []


def _entries(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    """Files with one of these suffixes in the folder that is typed so far."""
    folder, slash, start = incomplete.rpartition("/")
    with suppress(OSError):
        return sorted(
            f"{folder}{slash}{file.name}"
            for file in Path(folder + slash or ".").expanduser().iterdir()
            if file.name.startswith(start) and file.suffix in suffixes and (start or file.name[0] != ".")
        )
    return []


def _configurations(incomplete: str) -> Iterator[str]:
    """Folders with a config.json, and JSON files."""
    folder, slash, start = incomplete.rpartition("/")
    with suppress(OSError):
        for file in sorted(Path(folder + slash or ".").expanduser().iterdir()):
            if file.name.startswith(start) and (file.suffix == ".json" or (file / "config.json").is_file()):
                yield f"{folder}{slash}{file.name}"


def _downloaded(incomplete: str) -> Iterator[str]:
    """Repositories of the hub of which something is in its cache."""
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    with suppress(OSError):
        for folder in sorted(Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").iterdir()):
            kind, *name = folder.name.split("--")
            if kind == "models" and "/".join(name).startswith(incomplete):
                yield "/".join(name)


def in_bash(complete: Any) -> int:
    """Run `complete` with words that bash broke at : and = put together again, and leave out of what it
    prints the part that bash does not replace."""
    line, current = os.environ.get("COMP_WORDS", ""), int(os.environ.get("COMP_CWORD") or 0)
    words = line.split("\n" if "\n" in line else " ")
    joined: list[str] = []
    broken = 0
    for place, word in enumerate(words[: current + 1]):
        if joined and place and (word in (":", "=") or (joined[-1][-1:] in (":", "=") and broken)):
            joined[-1] += word
            broken = 1
        else:
            joined.append(word)
            broken = 0
    os.environ.update(COMP_WORDS="\n".join(joined), COMP_CWORD=str(len(joined) - 1))
    last = joined[-1] if joined else ""
    kept = max(last.rfind(":"), last.rfind("=")) + 1 if broken else 0
    text, code = StringIO(), 0
    with redirect_stdout(text):
        try:
            code = complete()
        except SystemExit as end:  # how typer ends a completion
            code = int(end.code or 0)
    lines = text.getvalue().splitlines()
    print("\n".join(line[kept:] if line.startswith(last[:kept]) else line for line in lines), file=sys.stdout)
    return code
