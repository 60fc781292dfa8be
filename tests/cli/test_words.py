"""What the command line makes of the library's Python, and of the words that a user types."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from inspector.cli.main import app, main
from inspector.cli.words import as_options, in_report
from inspector.core.errors import InspectError
from inspector.reporting.report import Finding, Report, Section
from inspector.reporting.tables import Table

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("command", "python", "words"),
    [
        ("memory", 'add `phase="train"`', "add --phase train"),
        ("memory", "leave out `batch=`, or give `batch=64`", "leave out --batch, or give --batch 64"),
        ("profile", 'give `inputs="1x3x224x224"`', "give --input 1x3x224x224"),
        ("freeze", "give `at=N`, or `verify=False`", "give --at N, or --no-verify"),
        ("freeze", 'give `patterns=["layer1.*"]`', "give --pattern 'layer1.*'"),
        ("bench", "give `batches=[1, 8, 64]` and `amp=True`", "give --batch 1,8,64 and --amp"),
        ("ddp", 'give `settings={"DDP.STALL": 60}`', "give --set DDP.STALL 60"),
        ("profile", 'give `model_args={"width": 2}`', "give --model-arg width=2"),
        ("report", "`added=` holds `x` as it is", "--with holds `x` as it is"),
        ("profile", "see `error.__cause__`", "see --debug"),
    ],
)
def test_keywords_become_options(command: str, python: str, words: str) -> None:
    group = typer.main.get_command(app)
    error = InspectError(python, python)
    as_options(error, group.get_command(None, command).params)  # type: ignore[attr-defined, arg-type]
    assert (error.message, error.hint) == (words, words)


def test_a_setting_is_written_in_two_ways(inspect) -> None:
    for words in (["--set", "MODEL.NAME", "resnet18"], ["--set", "MODEL.NAME=resnet18"]):
        code, out, _ = inspect("params", *words, "--top", "1")
        assert (code, "resnet18" in out) == (0, True)
    code, _, err = inspect("params", "--set", "SEED")
    assert code == 2
    assert err.startswith("error: --set 'SEED' has no value\nhint: write --set KEY VALUE")


def test_debug_is_no_word_of_another_option(inspect) -> None:
    _, _, err = inspect("profile", "resnet18", "--roofline", "--debug")
    assert "Traceback" not in err


def test_ctrl_c_says_one_word(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(**values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inspector.profiling.params.params", interrupted)
    assert main(["params", "resnet18"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("inspect pro", {"profile"}),
        ("inspect profile --phase ", {"forward", "train", "prefill", "decode"}),
        ("inspect bench --precision fp32,amp-b", {"fp32,amp-bf16"}),
        ("inspect freeze --nor", {"--norm"}),
        ("inspect profile --roofline h", {"h200sxm", "h100sxm", "h100pcie"}),
        ("inspect llm --gpu rtx", {"rtx4090", "rtx3090"}),
    ],
)
def test_a_shell_completes_commands_options_and_choices(typed: str, expected: set[str]) -> None:
    program = (
        "import sys, atexit; from inspector.cli.main import entry;"
        "atexit.register(lambda: print('HEAVY', {'torch', 'pandas', 'rich'} & set(sys.modules)));"
        "entry()"
    )
    words = typed.split(" ")
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={
            "PYTHONPATH": ":".join(sys.path),
            "_INSPECT_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(len(words) - 1),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    *shown, heavy = done.stdout.split("\n")[:-1]
    assert set(shown) == expected, done.stderr
    assert heavy == "HEAVY set()"


def test_every_help_fits_into_its_width(inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.cli.main import COMMANDS

    for columns in (80, 100):
        monkeypatch.setenv("COLUMNS", str(columns))
        for name in COMMANDS:
            code, out, _ = inspect(name, "--help")
            assert code == 0
            assert max(map(len, out.splitlines())) <= columns


@pytest.mark.parametrize("form", ["table", "json"])
def test_what_was_measured_until_ctrl_c_is_written(
    inspect, net_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    from inspector.benchmarking.run import Bench

    def interrupted(self: Bench, *arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "run", interrupted)
    code, out, err = inspect(
        "bench", f"{net_file}:Net", "--input", "1x3x8x8", "--device", "cpu", "--format", form
    )
    assert (code, err) == (130, "interrupted\n")
    assert "interrupted" in out


def test_what_a_report_hints_at_is_said_in_options_too() -> None:
    errors = Table({"model": ["a", "b"], "error": ['give `inputs="1x8"`', ""]})
    finding = Finding("signal", "skip", "", "not measured: give `inputs=`")
    report = Report("table", {}, {}, {}, {"models": errors}, [finding], sections=[Section("models", errors)])
    in_report(report, typer.main.get_command(app).get_command(None, "table").params)  # type: ignore[attr-defined]
    assert report.findings[0].message == "not measured: give --input"
    for table in (report.tables["models"], report.sections[0].frame):
        assert table["error"] == ["give --input 1x8", ""]
    assert errors["error"][0] == 'give `inputs="1x8"`'  # nobody else's table


def test_a_table_says_what_to_do_in_the_words_of_the_command_line(inspect, net_file: Path) -> None:
    code, out, _ = inspect("table", f"{net_file}:Net")
    assert code == 1
    assert "pass one with --input 1x3x224x224" in out
    assert "`" not in out
    assert out.count("has no default input") == 1  # the table says it


def test_an_error_shows_its_hint_once(inspect) -> None:
    code, _, err = inspect("profile", "resnt50")
    assert code == 2
    assert err.count("hint: ") == 1
    assert str(InspectError("no model", "see: models")) == "no model\nhint: see: models"
    assert str(InspectError("no model")) == "no model"


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("SOLVER.BASE_LR=abc", "'abc' is not a number", "the default is --set SOLVER.BASE_LR 0.001"),
        ("SOLVER=3", "SOLVER is a group of settings", "there are: SOLVER.OPTIMIZER, SOLVER.BASE_LR"),
        ("FREEZE.PATTERNS=3", "'3' is not a list", "--set FREEZE.PATTERNS []"),
        ("AMP.ENABLED=3", "'3' is not true or false", "--set AMP.ENABLED False"),
        ("QQQQ=3", "no setting is called QQQQ", "there are: MODEL.*, INPUT, SEED, FREEZE.*"),
        ("SOLVER.QQQQQ=3", "no setting is called SOLVER.QQQQQ", "there are: SOLVER.OPTIMIZER"),
    ],
)
def test_a_setting_of_another_kind(inspect, setting: str, message: str, hint: str) -> None:
    code, _, err = inspect("profile", "resnet18", "--set", setting)
    first, second = err.splitlines()
    assert code == 2
    assert message in first
    assert hint in second
    assert len(second) < 300  # not every setting


def test_a_setting_of_a_file_is_named(inspect, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("SEED: abc\n")
    assert "c.yaml: SEED: 'abc' is not a whole number" in inspect("profile", "resnet18", "--config", file)[2]


def test_a_counter_that_is_missing_says_how_to_install_it(inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    from inspector.counters import find

    absent = replace(find("thop"), package="no_such_thop")
    monkeypatch.setattr("inspector.counters.profile.find", lambda name: absent)
    code, _, err = inspect("profile", "alexnet", "--counter", "thop")
    assert code == 2
    assert err == "error: no_such_thop is not installed\nhint: install it with: pip install no_such_thop\n"
