"""What `inspect`, `inspect --help` and the help of each command say."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from inspector.cli.guide import COMMANDS, EXAMPLES, GROUPS, START
from inspector.cli.main import app
from inspector.cli.options import FIRST, LAST

pytestmark = pytest.mark.once
SHOWN = [(name, example) for name, examples in EXAMPLES.items() for example in examples]


def _command(name: str) -> Any:
    group: Any = typer.main.get_command(app)
    return group.get_command(None, name)


def test_every_file_of_a_command_is_in_the_list() -> None:
    folder = Path(__file__).parents[2] / "inspector" / "cli"
    commands = {file.stem for file in folder.glob("*.py") if f"def {file.stem}(" in file.read_text()}
    assert commands - {"command", "main"} == set(COMMANDS)
    assert len(COMMANDS) == len(set(COMMANDS))


@pytest.mark.parametrize(("name", "example"), SHOWN)
def test_an_example_is_a_call_of_its_command(name: str, example: str) -> None:
    """Options and choices exist, and values are of their kind; the models need not."""
    command, *words = shlex.split(example)
    assert command == name
    made = _command(name).make_context(name, words, obj={})
    assert made.params


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_groups_and_examples(inspect, name: str) -> None:
    code, out, _ = inspect(name, "--help")
    assert code == 0
    *_, last = (title for title in ("Model and call", "This command", "Result and settings") if title in out)
    assert last == "Result and settings"
    assert out.rstrip().endswith(f"inspect {EXAMPLES[name][-1]}")


def test_an_option_is_in_one_group(inspect) -> None:
    _, out, _ = inspect("profile", "--help")
    model, rest = out.split("This command:")
    own, result = rest.split("Result and settings:")
    assert "--input" in model
    assert "--depth" in own
    assert "--wide" in result
    assert not set(FIRST) & set(LAST)


def test_summaries_are_not_cut(inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = inspect("--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for group in GROUPS.values():
        for name, entry in group.items():
            assert f"  {name.ljust(9)}  {entry.summary}\n" in out


def test_alone_it_says_what_it_can_do_in_ten_lines(inspect) -> None:
    code, out, err = inspect()
    assert (code, out, err) == (0, START, "")
    assert len(out.splitlines()) <= 10
    assert max(map(len, out.splitlines())) <= 80
    for line in out.splitlines():
        if line.startswith("  inspect "):
            name, *words = line.strip().partition("   ")[0].partition("  ")[0].split()[1:]
            assert _command(name).make_context(name, words, obj={}).params
