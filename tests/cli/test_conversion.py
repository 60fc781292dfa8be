"""Values that are not left to typer are what typer would have made of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from inspector.cli.conversion import NEEDED, converted
from inspector.cli.main import COMMANDS, app

pytestmark = pytest.mark.once
BASELINE = Path(__file__).parents[2] / "benchmarks" / "baselines" / "torchvision.json"
TEXTS = ("", "a b", "1", "0.5", "true", "forward", "json", "~/x", "html,md")


def parameters() -> list[Any]:
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)
    commands = [group.get_command(context, name) for name in COMMANDS]
    return [parameter for command in commands for parameter in command.params]


def test_every_value_is_what_typer_makes_of_it() -> None:
    compared = 0
    for parameter in parameters():
        make = getattr(type(parameter), "get_runtime_param", None)
        if make is None:
            pytest.skip("this typer converts values without pydantic")
        several = parameter.multiple or parameter.nargs == -1
        values = [(text, "x") if several else text for text in TEXTS]
        for value in [None, parameter.default, *values]:
            plain = converted(parameter, value)
            if plain is NEEDED:
                continue
            whole = make(parameter).coerce(value, param=parameter, ctx=None)
            assert (type(plain), plain) == (type(whole), whole), parameter.name
            compared += 1
    assert compared > 1000


def test_a_number_is_left_to_typer() -> None:
    assert all(converted(p, "-7") is NEEDED for p in parameters() if p.name in ("depth", "top", "jobs"))


def test_a_usual_command_line_loads_no_pydantic() -> None:
    program = (
        "import sys; from inspector.cli.main import main;"
        "code = main(['diff', sys.argv[1], sys.argv[1], '--format', 'json']);"
        "sys.exit(code or 'pydantic' in sys.modules)"
    )
    words = [sys.executable, "-c", program, str(BASELINE)]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
