"""Write README.md and docs/ from benchmarks/templates: real output of the commands, tables of their options
and checks, numbers from benchmarks/results.

    python benchmarks/readme.py                      every page; runs only commands without a stored output
    python benchmarks/readme.py README.md            this page alone
    python benchmarks/readme.py --again 'freeze *'   runs these commands again
    python benchmarks/readme.py --check [PAGE...]    runs all commands, writes nothing; exit 1 where a page is
                                                     stale, or an output differs by more than times

In a template `@@run WORDS@@` becomes `$ inspect WORDS` and what it prints, `@@run WORDS => REGEX@@` of it the
first line and those that match. `@@about COMMAND@@` is its docstring, `@@examples COMMAND@@`, `@@options
COMMAND@@` and `@@checks COMMAND@@` are what they say, `@@commands@@` is the list of all commands, and
`@@NAME@@` a table of `tables.py`.
"""

from __future__ import annotations

import argparse
import difflib
import fnmatch
import importlib
import json
import os
import platform
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
if str(HERE) not in sys.path:  # where this file is run by runpy, as the tests do
    sys.path.append(str(HERE))

TEMPLATES = HERE / "templates"
OUTPUTS = HERE / "results" / "outputs.json"
WIDTH = "80"
"""Columns of the terminal that the commands write to."""
LLAMA = HERE / "llama-3.1-8b.json"
"""What a Llama-3.1-8B is, by its config.json on the hub."""
ROOMS = {
    "freeze": "inspector.freezing.checks",
    "init": "inspector.initialization.checks",
    "bench": "inspector.benchmarking.checks",
    "ddp": "inspector.distributed.checks",
}
PREPARED = {
    "net.json": "profile your_net.py:Net --input 1x3x64x64 -o net.json",
    "base.json": "table resnet18 resnet34 -o base.json",
}
"""Files that a command reads, and the command that makes each."""
NUMBERS = r"[\d.]+(e-?\d+)?|[\u2581-\u2588]+"
MEASURED = {
    "bench": rf"^(FP32|BF16|infer  |train  |[\w.]+: ).*|{NUMBERS}",
    "ddp": NUMBERS,
    "env": r"(?s:.+)",
    "reconcile": r"[\d.]+ [KMG]iB",
}
"""What may differ from run to run in the output of these commands, besides times and versions."""
TIMES = r"[\d.,]+ (?:ns|us|ms|s)\b|(?<=torch )\d[\w.+]*"
UNSTEADY = re.compile(r"^(note|ok)  .*(not stable|fastest).*\n?", re.MULTILINE)
"""Lines that a measurement may have, or not."""


def checks_of(command: str) -> tuple:
    return importlib.import_module(ROOMS[command]).CHECKS


def check_table(command: str) -> str:
    rows = [
        f"| `{check.name}` | {'Note. ' if check.note else ''}{check.verifies} |"
        for check in checks_of(command)
    ]
    return "\n".join(["| check | what it verifies |", "| --- | --- |", *rows])


def program(command: str) -> Any:
    """The function behind a command, with its options as its signature and its help as its docstring."""
    return getattr(importlib.import_module(f"inspector.cli.{command}"), command)


def about(command: str) -> str:
    paragraphs = (program(command).__doc__ or "").strip().split("\n\n")
    return "\n\n".join(_plain(" ".join(paragraph.split())) for paragraph in paragraphs)


def commands() -> str:
    """The commands, by what one wants."""
    from inspector.cli.guide import GROUPS

    lines = ["| command | what it does |", "| --- | --- |"]
    for title, group in GROUPS.items():
        lines.append(f"| **{title}** | |")
        lines += [f"| [`{name}`]({name}.md) | {_plain(entry.summary)} |" for name, entry in group.items()]
    return "\n".join(lines)


def examples(command: str) -> str:
    from inspector.cli.guide import EXAMPLES

    return "\n".join(["```bash", *(f"inspect {words}" for words in EXAMPLES[command]), "```"])


def option_tables(command: str) -> str:
    """The options of its own, then those that other commands have too."""
    from inspector.cli.options import FIRST, LAST

    own, shared = [], []
    for name, parameter in program(command).__signature__.parameters.items():
        if name != "ctx":
            words = _option(name, parameter)
            if words.startswith("| <code>--") and {**FIRST, **LAST}.get(name) == parameter.annotation:
                shared.append(words)
            else:
                own.append(words)
    head = ["| option | meaning |", "| --- | --- |"]
    tables = [[*head, *own]] if own else []
    tables.append(["Shared with other commands:", "", *head, *shared])
    return "\n\n".join("\n".join(table) for table in tables)


def _option(name: str, parameter: Any) -> str:
    """The row of one option, or of an argument, as typer declares it."""
    kind, info = get_args(parameter.annotation)[:2]
    several, kind = _value(kind)
    default, required = parameter.default, parameter.default is parameter.empty
    written = [word for word in (info.default, *(info.param_decls or ())) if isinstance(word, str)]
    if type(info).__name__ == "ArgumentInfo":
        names, value = [name.upper() + ("..." if several else "")], ""
    else:
        flag = f"--{name.replace('_', '-')}"
        names = written or [f"{flag}/--no-{flag[2:]}" if default is True else flag]
        value = "" if kind is bool else info.metavar or _metavar(kind)
    code = ", ".join(f"{word} {value}".strip() for word in names).replace("|", "&#124;").replace("<", "&lt;")
    words = [_plain(info.help or "")]
    if get_origin(kind) is Literal:
        if ", ".join(get_args(kind)) not in words[0]:
            words.append("One of " + ", ".join(f"`{word}`" for word in get_args(kind)) + ".")
    if required:
        words.append("Required.")
    elif default not in (None, False, "") and "Default:" not in (info.help or ""):
        words.append(f"Default: {'on' if default is True else default}.")
    return f"| <code>{code}</code> | {' '.join(words)} |"


def _value(kind: Any) -> tuple[bool, Any]:
    """Whether an option repeats, and the type of one value of it."""
    if get_origin(kind) is Union:
        kind = next(one for one in get_args(kind) if one is not type(None))
    return (True, get_args(kind)[0]) if get_origin(kind) is list else (False, kind)


def _metavar(kind: Any) -> str:
    return "NAME" if get_origin(kind) is Literal else {int: "N", float: "X", Path: "FILE"}.get(kind, "TEXT")


def _plain(text: str) -> str:
    """Text without markup, as Markdown in a cell of a table."""
    return re.sub(r"([*|<])", r"\\\1", text)


class Outputs:
    """What the commands print: stored, or from a run of them."""

    def __init__(self, again: str | None = None, stored_only: bool = False) -> None:
        self.stored: dict[str, list[str]] = json.loads(OUTPUTS.read_text()) if OUTPUTS.exists() else {}
        self.again, self.stored_only, self.fresh = again, stored_only, dict[str, str]()

    def of(self, words: str) -> str:
        wanted = self.again is not None and fnmatch.fnmatchcase(words, self.again)
        if words in self.fresh or (words in self.stored and not wanted):
            return self.fresh.get(words) or "\n".join(self.stored[words])
        if self.stored_only:
            raise SystemExit(f"no output is stored of: inspect {words}")
        print(f"inspect {words}", file=sys.stderr)
        self.fresh[words] = run(words)
        return self.fresh[words]

    def save(self, used: set[str] | None) -> None:
        """Store them; `used`: what all pages together show, where all were made."""
        lines = {**self.stored, **{words: text.split("\n") for words, text in self.fresh.items()}}
        kept = {words: lines[words] for words in sorted(lines) if used is None or words in used}
        OUTPUTS.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def run(words: str) -> str:
    """What a command prints, in a folder with the files of the examples, without a cache."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        guide = (TEMPLATES / "docs" / "commands" / "profile.md").read_text()
        example = re.search(r"```python\n(import torch\nfrom torch import nn.*?)```", guide, re.DOTALL)
        assert example is not None
        (folder / "your_net.py").write_text(example[1])
        (folder / "llama.json").write_text(LLAMA.read_text())
        for file, making in PREPARED.items():
            if file in words.split():
                _run(making, folder)
        text = _run(words, folder)
    text = text.replace(platform.platform(), platform.system())  # no machine and no place of one
    return text.replace(sys.executable, "python").replace(name, "~")


def _run(words: str, folder: Path) -> str:
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    reader, writer = pty.openpty()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "inspector", *shlex.split(words)],
            stdout=writer,
            stderr=errors,
            cwd=folder,
            env={**os.environ, "XDG_CACHE_HOME": str(folder / ".cache"), "COLUMNS": WIDTH, "NO_COLOR": "1"},
        )
        os.close(writer)
        text = _read(reader)
        if process.wait() not in (0, 1):  # 1: a verification that is shown failing
            errors.seek(0)
            raise SystemExit(f"inspect {words}: {errors.read()}")
    return text.replace("\r\n", "\n").rstrip()


def _read(reader: int) -> str:
    """All that is written to the other end of a terminal."""
    pieces = []
    while True:
        try:
            piece = os.read(reader, 65536)
        except OSError:  # Linux says so where the other end is closed
            piece = b""
        if not piece:
            os.close(reader)
            return b"".join(pieces).decode()
        pieces.append(piece)


def shown(text: str, pattern: str) -> str:
    """The answer, which ends at the first empty line, and lines that match, with those that continue them; an
    ellipsis where more than space is cut."""
    answer = text.partition("\n\n")[0]
    lines = answer.splitlines()
    cut: str | None = None
    for line in text[len(answer) :].splitlines():
        continued = cut is None and re.match(r" {4}", line)
        if not continued and not re.search(pattern, line):
            cut = "..." if line.strip() or cut else ""
            continue
        if cut is not None:
            lines.append(cut)
        lines.append(line)
        cut = None
    return "\n".join(lines)


def page(template: str, outputs: Outputs, used: set[str]) -> str:
    """A page from the text of its template."""
    from tables import TABLES

    made = {"about": about, "examples": examples, "options": option_tables, "checks": check_table}

    def fill(match: re.Match[str]) -> str:
        if match[1] in TABLES:
            return TABLES[match[1]]()
        verb, _, rest = match[1].partition(" ")
        if verb == "run":
            words, _, pattern = rest.partition(" => ")
            used.add(words)
            text = outputs.of(words)
            return f"$ inspect {words}\n{shown(text, pattern) if pattern else text}"
        return made[verb](rest) if verb in made else commands()

    return re.sub(r"@@(.+?)@@", fill, template)


def pages(names: list[str]) -> dict[str, str]:
    """The templates, by the page that each makes; `names`: only these pages."""
    every = {str(file.relative_to(TEMPLATES)): file.read_text() for file in sorted(TEMPLATES.rglob("*.md"))}
    if unknown := set(names) - set(every):
        raise SystemExit(f"no template makes {', '.join(sorted(unknown))}")
    return {name: text for name, text in every.items() if not names or name in names}


def same(words: str, text: str) -> str:
    """An output without what may differ from run to run: times, and what a command measures."""
    text = UNSTEADY.sub("", text).rstrip()
    for pattern in (TIMES, MEASURED.get(words.split()[0])):
        if pattern:
            text = re.sub(pattern, "#", text, flags=re.MULTILINE)
    return re.sub(r"-{2,}", "--", re.sub(r" +", " ", text))  # columns are as wide as what is in them


def stale(templates: dict[str, str]) -> bool:
    """Whether a page is not what its template makes, or a command prints something else now."""
    stored, used, wrong = Outputs(stored_only=True), set[str](), False
    for name, template in templates.items():
        file = ROOT / name
        if not file.exists() or file.read_text() != page(template, stored, used):
            print(f"{name} is not what its template makes: run python benchmarks/readme.py {name}")
            wrong = True
    for words in sorted(used):
        before, now = same(words, stored.of(words)), same(words, run(words))
        if before != now:
            wrong = True
            print(f"inspect {words}")
            print("\n".join(difflib.unified_diff(before.splitlines(), now.splitlines(), lineterm="", n=0)))
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="README.md, docs/...; default: all")
    parser.add_argument("--again", metavar="GLOB", help="run the commands that match, stored or not")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where something differs")
    options = parser.parse_args()
    templates = pages(options.pages)
    if options.check:
        return stale(templates)
    outputs, used, whole = Outputs(options.again), set[str](), False
    try:
        for name, template in templates.items():
            text = page(template, outputs, used)
            (ROOT / name).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / name).write_text(text)
        whole = not options.pages
    finally:  # what has run is kept, also after Ctrl-C
        outputs.save(used if whole else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
